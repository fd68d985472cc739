"""A reservoir is a fair sample of all that went by, however it came."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.control.reservoir import Reservoir


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(0, 9), max_size=6), st.integers(0, 99))
def test_it_holds_rows_that_were_there_and_none_twice(capacity, sizes, seed):
    kept, g, n = Reservoir(capacity), torch.Generator().manual_seed(seed), 0
    for size in sizes:
        kept.add(torch.arange(n, n + size)[:, None], g)
        n += size
    held = kept.rows(torch.zeros(0, 1, dtype=torch.int64))[:, 0].tolist()
    assert len(held) == len(kept) == min(capacity, n)
    assert len(set(held)) == len(held)
    assert set(held) <= set(range(n))


def test_each_row_is_as_likely_to_be_held_as_any_other():
    counts, runs = torch.zeros(23), 20_000
    g = torch.Generator().manual_seed(0)
    for _ in range(runs):
        kept = Reservoir(4)
        for rows in torch.arange(23)[:, None].split([3, 9, 1, 10]):
            kept.add(rows, g)
        counts[kept.rows(torch.zeros(0))[:, 0]] += 1
    p = 4 / 23
    assert ((counts / runs - p).abs() < 4.5 * (p * (1 - p) / runs) ** 0.5).all()


def test_rows_that_come_together_are_rows_that_come_one_by_one():
    x = torch.randn(40, 3)
    together, alone = Reservoir(5), Reservoir(5)
    together.add(x, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    for row in x:
        alone.add(row[None], g)
    assert torch.equal(together.rows(x), alone.rows(x))


def test_it_goes_on_as_if_it_had_never_been_saved():
    one, g = Reservoir(6), torch.Generator().manual_seed(1)
    two = Reservoir(6)
    two.load_state_dict(one.state_dict())
    assert len(two.rows(torch.zeros(2, 2))) == 0
    for size in (4, 30):
        one.add(torch.randn(size, 2, generator=g), g)
        two.load_state_dict(one.state_dict())
        assert torch.equal(one.rows(torch.zeros(1)), two.rows(torch.zeros(1)))
    more = torch.randn(30, 2, generator=g)
    one.add(more, torch.Generator().manual_seed(2))
    two.add(more, torch.Generator().manual_seed(2))
    assert torch.equal(one.rows(more), two.rows(more))
