"""A Config takes what its annotations allow and refuses the rest with what was got, what is allowed and the field."""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptheta.engine.errors import UsageError
from ptheta.engine.method import Between, Config, Estimate
from ptheta.engine.options import Options


@dataclass(frozen=True)
class Example(Config):
    """One field of every kind there is."""

    count: Annotated[int, Between(1, 100)] = 10
    """Whole number."""
    rate: Annotated[float, Between(0, open=True)] = 0.1
    """Above zero."""
    share: Annotated[float, Between(0, 1)] = 0.5
    """Closed on both sides."""
    sizes: Annotated[tuple[int, ...], Between(1, 9)] = (3,)
    """Several."""
    limit: Annotated[int | None, Between(1)] = None
    """May be missing."""
    kind: Literal["plain", "fancy"] = "plain"
    """One of two."""
    name: str = "x"
    """Text."""
    flag: bool = True
    """Yes or no."""


good = st.builds(
    Example,
    count=st.integers(1, 100),
    rate=st.floats(0, exclude_min=True, allow_infinity=False),
    share=st.floats(0, 1) | st.integers(0, 1),
    sizes=st.lists(st.integers(1, 9)) | st.tuples(st.integers(1, 9)),
    limit=st.none() | st.integers(1),
    kind=st.sampled_from(["plain", "fancy"]),
    name=st.text(),
    flag=st.booleans(),
)


@given(good)
def test_every_allowed_config_survives_json(config):
    again = Example.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.to_dict() == config.to_dict()
    assert type(again.sizes) is tuple and type(again.share) is float


@given(st.integers().filter(lambda v: not 1 <= v <= 100))
def test_a_whole_number_out_of_range_is_refused(value):
    with pytest.raises(UsageError) as error:
        Example(count=value)
    assert str(error.value) == (
        f"count = {value} is impossible; allowed: at least 1 and at most 100 (field count, option --count)."
    )


@given(st.floats(max_value=0) | st.sampled_from([math.nan, math.inf, -math.inf]))
def test_an_open_bound_leaves_itself_out_and_no_number_is_infinite(value):
    with pytest.raises(UsageError, match=r"rate = .* is impossible; allowed: above 0 \("):
        Example(rate=value)


@given(st.floats().filter(lambda v: not 0 <= v <= 1))
def test_closed_bounds_hold(value):
    with pytest.raises(UsageError, match="share = .* at least 0 and at most 1 "):
        Example(share=value)
    assert (Example(share=0).share, Example(share=1).share) == (0.0, 1.0)


@given(st.lists(st.integers(1, 9)), st.integers().filter(lambda v: not 1 <= v <= 9), st.randoms(use_true_random=False))
def test_one_bad_item_of_a_list_is_enough(items, bad, rng):
    items.insert(rng.randint(0, len(items)), bad)
    with pytest.raises(UsageError, match=f"sizes = {bad} is impossible"):
        Example(sizes=items)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", 3.0, r"count = 3.0 is of type float; allowed: int \(field count, option --count\)"),
        ("count", True, "count = True is of type bool; allowed: int"),
        ("count", "3", "count = '3' is of type str; allowed: int"),
        ("count", None, "count = None is of type NoneType; allowed: int"),
        ("rate", True, "rate = True is of type bool; allowed: float"),
        ("rate", "fast", "rate = 'fast' is of type str; allowed: float"),
        ("sizes", 3, "sizes = 3 is no list; allowed: a list of int"),
        ("sizes", "33", "sizes = '33' is no list"),
        ("sizes", [3.5], "sizes = 3.5 is of type float; allowed: int"),
        ("limit", 0, "limit = 0 is impossible; allowed: at least 1"),
        ("limit", 1.5, "limit = 1.5 is of type float; allowed: int"),
        ("kind", "fanzy", r"kind 'fanzy' is unknown; allowed: fancy, plain. Did you mean 'fancy'\?"),
        ("kind", None, "kind None is unknown; allowed: fancy, plain."),
        ("kind", ["plain"], "is unknown; allowed: fancy, plain."),
        ("name", 3, "name = 3 is of type int; allowed: str"),
        ("flag", 1, "flag = 1 is of type int; allowed: bool"),
    ],
)
def test_a_wrong_type_is_refused_in_one_line_with_what_is_allowed(field, value, message):
    with pytest.raises(UsageError, match=message) as error:
        Example(**{field: value})
    assert "\n" not in str(error.value)


def test_an_unknown_field_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"field 'shares' is unknown; allowed: count, flag, .* Did you mean 'share'\?"):
        Example.from_dict({"shares": 0.5})


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        Example().count = 200  # type: ignore[misc]


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0}, {"steps": -1}, {"steps": 10**30}, {"max_time": 0.0}, {"seed": -1}, {"seed": 2**63}, {"keep": -1},
        {"device": "tpu"}, {"precision": "fp8"}, {"threads": 0}, {"patience": 0}, {"eval_every": 0}, {"eval_size": 0},
        {"save_every": -1.0}, {"save_every": math.nan}, {"size": 0}, {"size": 5000}, {"threshold": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_options_of_a_run_are_refused_by_name(values):
    (field, value), *_ = values.items()
    with pytest.raises(UsageError, match=field):
        Options(**values)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_the_standard_error_is_that_of_the_mean(values):
    estimate = Estimate.of(torch.tensor(values, dtype=torch.float64))
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    assert estimate.n == len(values)
    assert estimate.mean == pytest.approx(mean, abs=1e-9)
    assert estimate.standard_error == pytest.approx(math.sqrt(variance / len(values)), abs=1e-9)


def test_one_value_has_no_standard_error():
    estimate = Estimate.of(torch.tensor([2.5]))
    assert estimate.mean == 2.5 and math.isnan(estimate.standard_error)


def test_a_mean_of_many_small_numbers_keeps_its_digits():
    values = torch.full((10**6,), 0.1, dtype=torch.float32)
    assert Estimate.of(values).mean == pytest.approx(float(values[0]), rel=1e-12)
