"""Keyed randomness and the order of the data: functions of the seed and the step, whatever the process count."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator, minibatches
from ptheta.engine.errors import UsageError

counts, sizes, seeds, starts = st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**40), st.integers(0, 60)


def take(number: int, *args, **kwargs) -> list[list[int]]:
    return [rows.tolist() for rows in itertools.islice(minibatches(*args, **kwargs), number)]


@settings(max_examples=60, deadline=None)
@given(counts, sizes, seeds, starts)
def test_starting_anywhere_equals_having_gone_on(count, size, seed, start):
    assert take(start + 5, count, size, seed)[start:] == take(5, count, size, seed, start)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 30), seeds, starts)
def test_processes_share_the_global_batch_without_duplicates(world, share, more, seed, start):
    count, size = world * share + more, world * share
    together = take(4, count, size, seed, start)
    shares = [take(4, count, size, seed, start, rank, world) for rank in range(world)]
    for step, rows in enumerate(together):
        parts = [ranked[step] for ranked in shares]
        assert {len(part) for part in parts} == {share}
        assert sum(parts, []) == rows and len(set(rows)) == size


@settings(max_examples=60, deadline=None)
@given(counts, sizes, seeds)
def test_an_epoch_visits_no_row_twice_and_only_the_remainder_not_at_all(count, size, seed):
    per_epoch = count // min(size, count)
    for epoch in range(3):
        rows = sum(take(per_epoch, count, size, seed, epoch * per_epoch), [])
        assert len(rows) == len(set(rows)) == per_epoch * min(size, count) > count - min(size, count)
        assert set(rows) <= set(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(take(1, 30, 30, seed, epoch)[0]) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_row_comes_first_equally_often():
    first = torch.tensor([rows[0] for rows in take(4000, 8, 8, 3)])
    expected = 4000 / 8
    chi2 = float(((first.bincount(minlength=8) - expected) ** 2 / expected).sum())
    assert chi2 < 24.3  # the 0.999 quantile with 7 degrees of freedom


def test_generators_are_keyed_by_all_three_and_by_nothing_else():
    draw = {
        key: torch.rand(4, generator=generator(*key)).tolist() for key in itertools.product((0, 1, 2**50), (0, 1), "ab")
    }
    assert len({tuple(values) for values in draw.values()}) == 12
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.rand(4, generator=generator(0, 0, "a")).tolist() == draw[0, 0, "a"]
    assert next(minibatches(5, 5, 0)).dtype == torch.int64
    assert torch.equal(torch.get_rng_state(), before)


def test_the_numbers_stay_what_they_are():
    """Runs of earlier versions are resumed with the same order."""
    assert take(2, 10, 4, 0) == [[5, 3, 0, 4], [7, 6, 8, 2]]
    assert generator(1, 2, "order").initial_seed() == 7998937320692044266


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 0), "rows is 0; it must be at least 1"),
        ((5, 0, 0), "batch size is 0"),
        ((5, 5, 0, -1), "start is -1"),
        ((8, 3, 0, 0, 0, 2), "batch size 3 cannot be shared equally by 2 processes; choose a multiple of 2"),
        ((5, 8, 0, 0, 0, 2), r"batch size 5 \(there are only 5 rows\) cannot be shared"),
        ((1, 8, 0, 0, 0, 2), "use at most 1 processes"),
        ((8, 4, 0, 0, 2, 2), "process 2 of 2 does not exist"),
        ((8, 4, 0, 0, 0, 0), "process 0 of 0"),
    ],
)
def test_impossible_values_are_refused_at_once(arguments, message):
    with pytest.raises(UsageError, match=message):
        minibatches(*arguments)
