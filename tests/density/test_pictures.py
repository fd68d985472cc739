"""Pictures hold the ink that is in the vectors, in its place."""

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import build, everything, some

from ptheta.data.binary import load
from ptheta.density import pictures
from ptheta.density.pictures import grid, of_model, save_grid

SHAPES = pytest.mark.parametrize("shape", [(1, 1), (2, 5), (5, 2), (3, 3)])


@SHAPES
@pytest.mark.parametrize(("count", "columns"), [(1, 8), (5, 2), (6, 3), (1, 1)])
def test_a_grid_has_the_right_size_and_each_vector_in_its_place(shape, count, columns):
    h, w = shape
    x = some(count, h * w, dtype=torch.float32)
    canvas = grid(x, shape, columns)
    rows = -(-count // columns)
    assert canvas.shape == (rows * h + rows - 1, columns * w + columns - 1)
    ink = 0
    for i, v in enumerate(x):
        r, c = i // columns * (h + 1), i % columns * (w + 1)
        np.testing.assert_array_equal(canvas[r : r + h, c : c + w], 1 - v.view(h, w).numpy())
        ink += int(v.sum())
    assert (canvas == 0).sum() == ink
    assert ((canvas == 0) | (canvas == 1)).sum() == count * h * w, "the rest is gap"


@SHAPES
def test_the_file_is_the_grid_enlarged_by_a_whole_factor(shape, tmp_path):
    x = some(10, shape[0] * shape[1], dtype=torch.float32)
    save_grid(tmp_path / "x.png", x, shape, columns=4)
    image, canvas = np.asarray(Image.open(tmp_path / "x.png")), grid(x, shape, 4)
    scale = image.shape[1] // canvas.shape[1]
    assert scale >= 4 and image.shape == (canvas.shape[0] * scale, canvas.shape[1] * scale)
    small = image.reshape(canvas.shape[0], scale, canvas.shape[1], scale)
    assert (small == small[:, :1, :, :1]).all()
    np.testing.assert_allclose(small[:, 0, :, 0] / 255, canvas, atol=1 / 255)


def test_a_wide_grid_is_not_enlarged_and_other_dtypes_are_taken(tmp_path):
    x = some(3, 28 * 900)
    for same in (x, x.to(torch.uint8), x.bool()):
        save_grid(tmp_path / "x.png", same, (28, 900), columns=1)
        assert Image.open(tmp_path / "x.png").size == (900, 3 * 29 - 1)


def figures_of(n: int, shape, count: int):
    data = load(np.asarray(some(count, n)))
    object.__setattr__(data, "shape", shape)
    model = build("nade", n, dtype=torch.float32)
    model.shape = shape
    before = torch.get_rng_state()
    figures = of_model(model, data, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    return figures


@pytest.mark.parametrize(("n", "shape"), [(1, (1, 1)), (10, (2, 5)), (10, (5, 2)), (9, (3, 3)), (5, None), (1, None)])
@pytest.mark.parametrize("count", [1, 30, 130])
def test_everything_that_can_be_drawn_is_drawn(n, shape, count, tmp_path):
    figures = figures_of(n, shape, count)
    assert figures.keys() == ({"moments"} if shape is None else {"moments", "samples", "completions"})
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=20)
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 1, "nothing is drawn"
    axes = figures["moments"].axes
    assert len(axes) == (2 if n > 1 and count > 1 else 1)
    assert len(axes[0].collections[0].get_offsets()) == n
    if len(axes) == 2:
        assert len(axes[1].collections[0].get_offsets()) == n * (n - 1) // 2


def test_moments_are_those_of_the_vectors():
    a, b = some(200, 4), some(300, 4, seed=1) * some(300, 4, seed=2)
    means, covariances = (axes.collections[0].get_offsets() for axes in pictures.moments(b, a).axes)
    np.testing.assert_allclose(means, np.stack([a.mean(0), b.mean(0)], 1))
    upper = np.triu_indices(4, 1)
    want = [np.cov(v.T.numpy())[upper] for v in (a, b)]
    np.testing.assert_allclose(covariances, np.stack(want, 1), atol=1e-12)


def test_samples_stand_beside_data():
    data, drawn = everything(6)[:64], 1 - everything(6)
    left, right = pictures.samples(data, drawn, (2, 3), "nade").axes
    np.testing.assert_array_equal(left.images[0].get_array(), grid(data, (2, 3), 8))
    np.testing.assert_array_equal(right.images[0].get_array(), grid(drawn, (2, 3), 8))
    assert "nade" in right.get_title()


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (1, 4)])
def test_completions_show_the_upper_half_as_observed_and_the_truth_at_the_end(shape):
    h, w = shape
    x, model = some(5, h * w, dtype=torch.float32), build("fvsbn", h * w, dtype=torch.float32)
    canvas = pictures.completions(model, x, shape, 0).axes[0].images[0].get_array()
    top = (h + 1) // 2
    assert canvas.shape == (5 * (h + 1) - 1, 6 * (w + 1) - 1)
    for i, v in enumerate(x):
        row = canvas[i * (h + 1) : i * (h + 1) + h]
        parts = [row[:, k * (w + 1) : k * (w + 1) + w] for k in range(6)]
        truth = 1 - v.view(h, w).numpy()
        np.testing.assert_array_equal(parts[5], truth)
        for part in parts[:5]:
            np.testing.assert_array_equal(part[:top], truth[:top])
        assert (parts[0][top:] == 0.75).all(), "what is hidden is grey"
        assert all(set(np.unique(part)) <= {0.0, 1.0} for part in parts[1:])
