"""The tour writes one page that stands by itself."""

import re

import pytest

from ptheta.engine.errors import UsageError
from ptheta.tour import tour


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tour") / "tour"
    tour(folder, steps=60)
    return folder / "index.html"


def test_the_page_needs_nothing_from_outside(page):
    text = page.read_text()
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text and "@import" not in text


def test_the_page_shows_curve_samples_densities_and_completions(page):
    text = page.read_text()
    assert text.count("<img") == 14 and text.count("data:image/gif") == 2
    assert "−log p, nats" in text and "bits a pixel" in text


def test_the_figures_of_the_page_are_those_of_the_model(page):
    import ptheta
    from ptheta.data.binary import load
    from ptheta.density.likelihood import evaluate

    model = ptheta.load(page.parent / "made-digits-1")
    nats = evaluate(model, load("digits").split("test"))["nats"]
    assert f"{nats.mean:.2f} ± {nats.standard_error:.2f}" in page.read_text()
    joint, data = ptheta.load(page.parent / "joint-digits-1"), load("digits")
    right = evaluate(joint, data.split("test"), data.labels("test"))["accuracy"]
    assert f"{100 * right.mean:.1f} ± {100 * right.standard_error:.1f} %" in page.read_text()


def test_the_scores_of_the_page_are_those_of_the_network(page):
    import ptheta
    from ptheta.data.label_maps import load
    from ptheta.segmentation.learning import judged, matrices
    from ptheta.tour.segmentation import ON_SCENES

    model, data = ptheta.load(page.parent / "context-scenes-1"), load("scenes", size=ON_SCENES["size"])
    found = judged(matrices(model, data.split("test"), data.maps("test")))
    for name in ("pa", "mpa", "miou"):
        assert f"{100 * found[name].mean:.1f} ± {100 * found[name].standard_error:.1f}" in page.read_text()


def test_the_returns_of_the_page_are_those_of_the_runs(page):
    import json

    for name, env in (("trpo", "CartPole-v1"), ("ddpg", "Pendulum-v1")):
        lines = (page.parent / f"{name}-balance-1" / "metrics.jsonl").read_text().splitlines()
        found = [m["return_mean"] for m in map(json.loads, lines) if "return_mean" in m]
        said = f"Mean return of ten others: {max(found):.0f}; before it had learned anything, {found[0]:.0f}."
        assert f"{env} by {name}" in page.read_text() and said in page.read_text()


def test_the_pixel_that_is_asked_about_is_the_middle_of_the_largest_thing_found():
    import torch

    from ptheta.segmentation.context import Context
    from ptheta.tour.segmentation import looked_at

    net = Context((3, 32, 32), ["ground", "disc"], width=4, seed=1, output_stride=4).eval()
    x = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    said = torch.zeros(2, 32, 32, dtype=torch.uint8)
    said[1, 4:9, 20:25] = 1
    figure, side = looked_at(net, x, said)
    assert side == 32, "a kernel of 4, one of 3 at 2 pixels, three of 3 at 4: 4 + 4 + 3 × 8"
    assert all(axis.lines[0].get_xydata().tolist() == [[22, 6]] for axis in figure.axes)
    assert '"disc"' in figure.axes[0].get_title()
    assert '"ground"' in looked_at(net, x, torch.zeros_like(said))[0].axes[0].get_title(), "of one that finds nothing"


def test_the_click_that_is_shown_is_the_one_that_may_mean_most():
    import numpy as np

    from ptheta.data import rle
    from ptheta.data.instances import Example
    from ptheta.tour.anything import most_nested

    masks = np.zeros((3, 20, 20), bool)
    masks[0, 2:17, 2:17], masks[1, 10:17, 10:17], masks[2, 0:2, 0:2] = True, True, True
    one = Example("one", np.zeros((3, 20, 20), np.uint8), tuple(rle.encode(mask) for mask in masks), (0, 0, 0))
    _, (x, y), held = most_nested([one])
    assert (x, y) == (13, 13) and [int(mask.sum()) for mask in held] == [49, 225]


def test_a_second_tour_keeps_the_run_of_the_first(page, monkeypatch):
    """Of its stops, the first is made; the others are told where to write, and do not."""
    from ptheta.tour import anything, control, density, segmentation

    before = (page.parent / "made-digits-1" / "model" / "model.safetensors").read_bytes()
    told = []
    stops = ((density, "digits_with_labels"), (segmentation, "scenes"), (anything, "things"), (control, "sections"))
    for module, name in stops:
        monkeypatch.setattr(
            module, name, lambda *where, name=name: (told.extend(where[:-2]), [name] if name == "sections" else name)[1]
        )
    tour(page.parent, steps=20)
    assert (page.parent / "made-digits-2" / "config.json").exists()
    assert (page.parent / "made-digits-1" / "model" / "model.safetensors").read_bytes() == before
    assert [path.name for path in told] == [
        "joint-digits-2", "context-scenes-2", "sam-scenes-2", "gridworld-2", "balance-2",
    ]  # fmt: skip
    assert not any(path.exists() for path in told)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="name another --out"):
        tour(tmp_path, steps=20)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_tour_that_is_cut_short_can_be_taken_again(tmp_path, monkeypatch):
    def cut_short(run, steps, seed):
        run.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("ptheta.tour.density.digits", cut_short)
    for k in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            tour(tmp_path / "tour", steps=20)
        assert (tmp_path / "tour" / f"made-digits-{k}").is_dir()
