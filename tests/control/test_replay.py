"""The replay against a list."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.control.replay import FIELDS, Replay, Transitions
from ptheta.control.spaces import Spaces
from ptheta.engine.errors import UsageError

VECTORS = Spaces((3,), None, (-1.0, -1.0), (1.0, 1.0))
PICTURES = Spaces((1, 4, 4), 5)


def numbered(first: int, count: int, spaces: Spaces) -> Transitions:
    """Transition i holds i everywhere."""
    i = torch.arange(first, first + count)
    s = i.view(-1, *(1,) * len(spaces.observation)).expand(-1, *spaces.observation)
    s = s.to(torch.uint8) if spaces.pixels else s.float()
    a = i if spaces.actions else i[:, None].expand(-1, 2).float()
    return Transitions(s, a, i.float(), s, i % 2 == 0)


@settings(max_examples=50, deadline=None)
@given(capacity=st.integers(1, 12), sizes=st.lists(st.integers(1, 12), max_size=12))
def test_it_holds_the_last_ones(capacity, sizes):
    for spaces in (VECTORS, PICTURES):
        replay, kept, first = Replay(capacity, spaces, torch.device("cpu")), [], 0
        for size in sizes:
            if size > capacity:
                with pytest.raises(UsageError, match="do not fit a replay"):
                    replay.add(numbered(first, size, spaces))
                continue
            replay.add(numbered(first, size, spaces))
            kept = [*kept, *range(first, first + size)][-capacity:]
            first += size
        assert replay.size == len(kept)
        assert sorted(replay.r[: replay.size].int().tolist()) == kept


def test_draws_are_alike_and_rows_stay_together():
    replay = Replay(10, VECTORS, torch.device("cpu"))
    replay.add(numbered(0, 7, VECTORS))
    drawn = replay.draw(70_000, torch.Generator().manual_seed(0))
    often = torch.bincount(drawn.r.long(), minlength=10)
    assert (often[7:] == 0).all() and ((often[:7] - 10_000).abs() < 500).all()
    for x in (drawn.s[:, 2], drawn.a[:, 1], drawn.after[:, 0]):
        assert torch.equal(x, drawn.r)
    assert torch.equal(drawn.terminated, drawn.r % 2 == 0)


@pytest.mark.parametrize("count", [4, 10, 13])
def test_it_goes_on_from_its_state(count):
    one = Replay(10, PICTURES, torch.device("cpu"))
    for i in range(count):
        one.add(numbered(i, 1, PICTURES))
    two = Replay(10, PICTURES, torch.device("cpu"))
    two.load_state_dict({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in one.state_dict().items()})
    for replay in (one, two):
        replay.add(numbered(50, 3, PICTURES))
    assert one.at == two.at and all(torch.equal(getattr(one, f), getattr(two, f)) for f in FIELDS)
    with pytest.raises(UsageError, match="do not fit a replay of 3"):
        Replay(3, PICTURES, torch.device("cpu")).load_state_dict(one.state_dict())


def test_a_replay_of_nothing_is_refused():
    with pytest.raises(UsageError, match="allowed: at least 1"):
        Replay(0, VECTORS, torch.device("cpu"))
