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
    assert text.count("<img") == 7
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


def test_a_second_tour_keeps_the_run_of_the_first(page):
    before = (page.parent / "made-digits-1" / "model" / "model.safetensors").read_bytes()
    tour(page.parent, steps=20)
    assert (page.parent / "made-digits-2" / "config.json").exists()
    assert (page.parent / "made-digits-1" / "model" / "model.safetensors").read_bytes() == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="name another --out"):
        tour(tmp_path, steps=20)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
