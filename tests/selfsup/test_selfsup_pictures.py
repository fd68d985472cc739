"""What is drawn of an encoder: neighbours, views, the map, and how pictures are shown."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from ptheta.data.order import generator
from ptheta.data.pictures import load, of_arrays
from ptheta.selfsup.pictures import grid, map_of, nearest, neighbours, of_model, shown, views
from ptheta.selfsup.simclr import SimCLR
from ptheta.selfsup.views import PRESETS


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "features"))


def some_bytes(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=generator(0, 0, "pictures"), dtype=torch.uint8)


def small(shape=(3, 8, 8), views: str = "photographs") -> SimCLR:
    model = SimCLR(list(shape), encoder="resnet", width=4, depth=1, patch=4, cells=1, views=views)
    model.start_at(torch.full((shape[0],), 0.4), torch.full((shape[0],), 0.2))
    return model.eval()


def drawn(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize("k", [1, 4, 50])
def test_the_nearest_are_those_of_a_naive_loop(k):
    asked, bank = some(5, 6), some(20, 6, seed=1) * torch.arange(1, 21)[:, None]
    found = nearest(asked, bank, k)
    for z, rows in zip(asked, found.tolist()):
        cosine = [(z @ other / z.norm() / other.norm()).item() for other in bank]
        assert rows == sorted(range(20), key=lambda i: -cosine[i])[:k]


def test_none_is_its_own_neighbour_even_beside_copies_of_itself():
    bank = some(6, 4)
    bank[4] = bank[0] * 2
    found = nearest(bank[:3], bank, 7, skip_self=True)
    assert found.shape == (3, 5) and all(i not in row for i, row in enumerate(found.tolist()))
    assert found[0, 0] == 4
    assert (nearest(bank, bank, 1)[[1, 2, 3, 5], 0] == torch.tensor([1, 2, 3, 5])).all()


def test_rows_of_neighbours_show_the_right_pictures():
    asked, bank = some_bytes(2, 3, 4, 4), some_bytes(9, 3, 4, 4).flip(0)
    found = torch.tensor([[3, 1, 8], [0, 7, 2]])
    figure = neighbours(asked, found, bank, (3, 4, 4))
    assert [axes.get_title() for axes in figure.axes[:4]] == ["asked", "1", "2", "3"]
    want = [x for row in range(2) for x in (asked[row], *bank[found[row]])]
    for axes, x in zip(figure.axes, want, strict=True):
        np.testing.assert_allclose(drawn(axes), x.permute(1, 2, 0) / 255)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("shape", [(1, 3, 5), (3, 3, 5), (1, 1, 1), (3, 4, 1)])
def test_bytes_and_values_are_shown_alike(shape):
    x = some_bytes(*shape)
    got = shown(x)
    assert got.shape == (shape[1:] if shape[0] == 1 else (*shape[1:], 3))
    np.testing.assert_array_equal(got, shown(x / 255))
    np.testing.assert_allclose(got, (x.permute(1, 2, 0) / 255).reshape(got.shape))
    assert shown(torch.tensor([[[-1.0, 2.0]]])).tolist() == [[0, 1]], "views may lie outside by a little"


def test_a_grid_may_have_short_rows_and_no_titles():
    x = some_bytes(3, 1, 4, 4)
    figure = grid([[x[0], x[1]], [x[2]]], [])
    assert [axes.get_title() for axes in figure.axes] == ["", "", ""]
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y0 and boxes[0].x0 == pytest.approx(boxes[2].x0)
    assert boxes[1].x0 > boxes[0].x1
    assert all(axes.images[0].get_clim() == (0, 1) for axes in figure.axes), "black is black in each of them"


def test_views_are_drawn_beside_their_picture_as_training_would_see_them():
    model, x = small(), some_bytes(3, 3, 8, 8)
    figure = views(model, x, each=4)
    assert len(figure.axes) == 15
    for i in range(3):
        np.testing.assert_allclose(drawn(figure.axes[5 * i]), x[i].permute(1, 2, 0) / 255)
        for step in range(4):
            want = (model.view(x, step, "shown")[i] * 0.2 + 0.4).clamp(0, 1).permute(1, 2, 0)
            np.testing.assert_allclose(drawn(figure.axes[5 * i + 1 + step]), want, atol=1e-6)
    model.views = PRESETS["none"]
    same = views(model, x, each=2)
    np.testing.assert_allclose(drawn(same.axes[1]), x[0].permute(1, 2, 0) / 255, atol=1e-5)


# ---------------------------------------------------------------- the map


def places(figure) -> np.ndarray:
    return np.concatenate([np.asarray(c.get_offsets()) for c in figure.axes[0].collections])


def test_the_map_is_that_of_the_two_principal_directions():
    pca = pytest.importorskip("sklearn.decomposition", reason="scikit-learn is not installed").PCA
    z = some(60, 5) * torch.tensor([3, 2, 1, 0.5, 0.1]) + 1
    unit = z.double() / z.double().norm(dim=1, keepdim=True)
    want = pca(2).fit_transform(unit)
    got = places(map_of(z, None, ()))
    for k in range(2):
        sign = np.sign(got[:, k] @ want[:, k])
        np.testing.assert_allclose(got[:, k] * sign, want[:, k], atol=1e-6)
    np.testing.assert_allclose(places(map_of(z * 9, None, ())), got, atol=1e-6)


def test_classes_have_colours_and_names():
    z, y = some(60, 5), torch.arange(60) % 3
    y[y == 1] = 12  # a class without a name; class 1 is not there
    figure = map_of(z, y, ("cat", "dog", "emu"))
    legend = figure.axes[0].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["cat", "emu", "12"]
    alone = places(map_of(z, None, ()))
    np.testing.assert_allclose(places(figure), np.concatenate([alone[y == c] for c in (0, 2, 12)]), atol=1e-9)
    colours = [tuple(c.get_facecolor()[0][:3]) for c in figure.axes[0].collections]
    assert len(set(colours)) == 2 and colours[1] == colours[2], "ten colours, and then again"
    plain = map_of(z, None, ()).axes[0].collections[0].get_facecolor()[0]
    assert tuple(plain[:3]) == to_rgba("tab:blue")[:3]


@pytest.mark.parametrize("shape", [(1, 5), (9, 1), (1, 1), (2, 2), (30, 4)])
def test_features_that_are_few_or_collapsed_are_drawn_too(shape):
    for z in (some(*shape), torch.zeros(shape), torch.ones(shape)):
        figure = map_of(z, torch.zeros(shape[0], dtype=torch.long), ("all",))
        assert places(figure).shape == (shape[0], 2) and np.isfinite(places(figure)).all()
        figure.canvas.draw()


# ---------------------------------------------------------------- of a model


@pytest.mark.parametrize(("count", "channels"), [(5, 3), (60, 1)])
def test_a_model_is_drawn_and_nothing_changes(count, channels):
    """From a set with and one without validation pictures."""
    x = some_bytes(count, channels, 8, 8)
    y = np.arange(count) % 2
    data, model = of_arrays("array", {"x": x.numpy(), "y": y}, "made here"), small((channels, 8, 8))
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    figures = of_model(model, data, 0)
    assert set(figures) == {"neighbours", "map", "views"} and torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    held = data.split("valid" if count == 60 else "train")
    bank, columns = data.split("train"), 8 if count == 60 else 5
    asked = figures["neighbours"].axes[::columns]
    assert len(asked) == min(8, len(held))
    for axes, picture in zip(asked, held):
        np.testing.assert_allclose(drawn(axes), shown(picture))
    first = figures["neighbours"].axes[1]
    want = bank[nearest(model.embed(held[:1]), model.embed(bank), 1, skip_self=count == 5)[0, 0]]
    np.testing.assert_allclose(drawn(first), shown(want))
    assert places(figures["map"]).shape == (len(held), 2)
    model.uses_views = False
    assert set(of_model(model, replace(data, classes=()), 0)) == {"neighbours", "map"}


def test_a_set_without_labels_is_drawn_without_a_legend():
    figure = of_model(small((1, 8, 8)), load(some_bytes(20, 1, 8, 8).numpy()), 0)["map"]
    assert figure.axes[0].get_legend() is None
