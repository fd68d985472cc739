"""The study of divergences: what each of them teaches a model that is too simple, its table and its picture."""

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import stats
from zoo import double

from ptheta.density import divergence_study as module
from ptheta.density import divergences as d
from ptheta.density.divergence_study import SYMBOLS, command, divergences, gaussian, picture, study
from ptheta.engine.errors import InputError, UsageError


@pytest.fixture(scope="module")
def fits():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield study(0)
    torch.set_num_threads(before)


@pytest.fixture
def found(fits):
    return {f.minimised: f for f in fits}


def test_what_was_minimised_is_least_where_it_was_minimised(fits):
    assert [f.minimised for f in fits] == list(SYMBOLS) and all(list(f.values) == list(SYMBOLS) for f in fits)
    for own in fits:
        least = min(f.values[own.minimised] for f in fits)
        assert own.values[own.minimised] <= least * (1 + 1e-3), own.minimised
    assert all(math.isfinite(v) for f in fits for v in f.values.values())


def test_no_gaussian_at_all_is_nearer(found):
    """A search over all means and widths, coarse, ends no lower than the descents did."""
    x = module.grid()
    log_p = module.data(x)
    every = module.measures(x, log_p)
    models = [gaussian(x, m, s) for m in np.linspace(-4, 4, 17) for s in np.geomspace(0.4, 5, 12)]
    for name in SYMBOLS:
        assert min(every[name](log_p, q).item() for q in models) >= found[name].values[name] * (1 - 1e-3), name


def test_the_fits_are_those_that_theory_gives(found):
    x = module.grid()
    p, q = module.data(x).exp(), gaussian(x, found["forward_kl"].mean, found["forward_kl"].width).exp()
    for power in (1, 2):  # maximum likelihood in an exponential family matches moments
        assert (q * x**power).sum().item() == pytest.approx((p * x**power).sum().item(), abs=0.01)
    one = found["reverse_kl"]
    assert one.values["reverse_kl"] == pytest.approx(-math.log(0.6), abs=1e-3)
    assert (one.mean, one.width) == pytest.approx((-2.5, 0.5), abs=0.01)
    assert found["squared_hellinger"].values["squared_hellinger"] == pytest.approx(1 - math.sqrt(0.6), abs=1e-3)
    two = stats.norm.cdf(2) - stats.norm.cdf(-2)
    assert one.covered == pytest.approx((two, 0), abs=0.02)
    assert all(min(found[k].covered) > 0.9 for k in ("forward_kl", "chi_squared", "mmd2", "w1", "w2_squared"))


def test_the_kernel_is_as_wide_as_the_median_distance_of_two_draws():
    x = double([0.0, 1.0, 3.0])
    p, q = double([0.5, 0.25, 0.25]), double([1.0, 0.0, 0.0])
    # distances 0: .375, 1: .25, 2: .125, 3: .25; the median is 1
    K = (-((x[:, None] - x) ** 2) / 2).exp()
    got = module.measures(x, p.log())["mmd2"](p.log(), q.log())
    torch.testing.assert_close(got, (p - q) @ K @ (p - q))


def test_other_starts_lead_to_the_same_place(found):
    """Where there is one basin, wherever they are; the random ones are the seed's."""
    x = module.grid()
    log_p = module.data(x)
    first, again, other = (module.starts(x, log_p, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(first[:3], other[:3]) and (first[3:] != other[3:]).all()
    for theta in (*first[3:6], *other[3:6]):
        loss, at = module.descend(lambda t: d.squared_hellinger(log_p, gaussian(x, t[0], t[1].exp())), theta)
        assert loss >= found["squared_hellinger"].values["squared_hellinger"] - 1e-6
        loss, at = module.descend(lambda t: d.exact_wasserstein(log_p, gaussian(x, t[0], t[1].exp()), x), theta)
        assert (at[0].item(), at[1].exp().item()) == pytest.approx((found["w1"].mean, found["w1"].width), abs=0.05)


def test_the_picture_shows_every_fit_from_narrow_to_wide(fits):
    figure = picture(fits)
    x = module.grid()
    step = (x[1] - x[0]).item()
    assert len(figure.axes) == len(fits) == 9
    for axes, fit in zip(figure.axes, sorted(fits, key=lambda f: f.width), strict=True):
        data, model = axes.lines[:2]
        np.testing.assert_allclose(data.get_ydata(), module.data(x).exp() / step)
        np.testing.assert_allclose(model.get_ydata(), gaussian(x, fit.mean, fit.width).exp() / step)
        assert axes.get_title("left").endswith(SYMBOLS[fit.minimised])
        r, _, b = to_rgb(model.get_color())
        assert (r > b) == (min(fit.covered) < 0.5), "red where a mode is missed"
        shares = [t.get_text() for t in axes.texts[1:]]
        assert shares == [f"{c:.0%}" for c in fit.covered]


@pytest.fixture
def known(fits, monkeypatch, tmp_path):
    """The command without its computation, in an empty folder."""
    monkeypatch.setattr(module, "study", lambda seed: fits)
    monkeypatch.chdir(tmp_path)
    return fits


def test_the_command_prints_the_matrix_and_draws(known, tmp_path, capsys):
    assert command(["--out", "new/fits.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "new/fits.png" and Image.open(tmp_path / "new/fits.png").size == (1365, 1066)
    rows = [line.split() for line in lines if line.split()[:1] and line.split()[0] in SYMBOLS.values()][-9:]
    for i, (row, fit) in enumerate(zip(rows, known, strict=True)):
        assert row[0] == SYMBOLS[fit.minimised] and [float(v) for v in row[1:3]] == pytest.approx(
            [fit.mean, fit.width], abs=0.01
        )
        cells = row[-9:]
        assert [float(v.rstrip("*")) for v in cells] == pytest.approx(list(fit.values.values()), rel=6e-3)
        assert cells[i].endswith("*")
    assert command(["--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["picture"] == "divergences.png" and (tmp_path / "divergences.png").exists()
    assert printed["data"]["weights"] == [0.6, 0.4] and printed["seed"] == 0
    assert [f["minimised"] for f in printed["fits"]] == list(SYMBOLS)
    assert printed["fits"][1]["values"] == known[1].values


def test_no_file_is_overwritten(known, tmp_path):
    (tmp_path / "mine.png").write_text("mine")
    (tmp_path / "divergences.png").write_text("mine")
    for out, message in (
        ("mine.png", "mine.png exists; name another --out"),
        ("mine.jpg", "--out mine.jpg is no picture's name; allowed: a name that ends in .png"),
        ("mine.png/new.png", "mine.png is no folder; name another --out"),
    ):
        with pytest.raises(UsageError, match=message):
            divergences(module.Path(out))
    divergences()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["divergences-2.png", "divergences.png", "mine.png"]
    assert (tmp_path / "mine.png").read_text() == (tmp_path / "divergences.png").read_text() == "mine"


def test_a_start_from_which_the_search_runs_off_counts_for_nothing():
    from ptheta.density.divergence_study import descend

    def loss(theta):
        if theta[0] > 1:
            raise InputError("the probabilities of q sum to nan")
        return -theta.sum()

    value, theta = descend(loss, torch.zeros(2, dtype=torch.float64))
    assert value == math.inf and theta.shape == (2,)
