r"""What is observed and what can be done: of gymnasium's spaces, what methods of this room need to know.

A picture of bytes is (C, H, W), whatever the environment gives; everything else is a row of numbers (`flattening`).
Actions are whole numbers from 0, or vectors within [−1, 1] that are stretched to the bounds l < h,

    a' = clip( (l + h) / 2 + (h − l) / 2 · a, l, h )                                                             (1)

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ptheta.control.flattening import channels_last, layout
from ptheta.control.ids import imported
from ptheta.engine.errors import InputError


@dataclass(frozen=True)
class Spaces:
    """What is observed and what can be done."""

    observation: tuple[int, ...]
    """(n,), or (C, H, W) of pictures."""
    actions: int | None
    """How many there are, or None if they are vectors."""
    low: tuple[float, ...] = ()
    """Bounds of each component of a vector."""
    high: tuple[float, ...] = ()
    first: int = 0
    """What the environment calls its first action."""
    given: dict[str, Any] | None = field(default=None, repr=False, hash=False)
    """What the environment itself gives, where that is not `observation`: see `flattening`."""

    @property
    def pixels(self) -> bool:
        return len(self.observation) == 3

    @property
    def components(self) -> int:
        """m."""
        return len(self.low)

    @property
    def bounded(self) -> bool:
        return bool(self.low) and bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: no infinities."""
        bounds = {name: [b if np.isfinite(b) else None for b in getattr(self, name)] for name in ("low", "high")}
        return {**asdict(self), **bounds, "observation": list(self.observation)}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Spaces:
        """The inverse. Raises InputError for what is no description of spaces."""
        try:
            low, high = (
                tuple(sign * np.inf if b is None else float(b) for b in d[name])
                for name, sign in (("low", -1), ("high", 1))
            )
            return cls(tuple(d["observation"]), d["actions"], low, high, d["first"], d.get("given"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{str(d)[:80]!r} describes no spaces of an environment: {error!r}.") from error

    def describe(self) -> str:
        does = f"{self.actions} actions" if self.actions else f"actions of {self.components} numbers"
        return f"observations {'×'.join(map(str, self.observation))}, {does}"


def spaces_of(name: str, env: Any, raw: Any = None) -> Spaces:
    """The spaces of an environment, or InputError for those that no method here can take.

    raw: Its space of observations before it was flattened.
    """
    gymnasium = imported()
    seen: Any = getattr(env, "observation_space", None)
    done: Any = getattr(env, "action_space", None)
    if not isinstance(seen, gymnasium.Space) or not isinstance(done, gymnasium.Space):
        raise InputError(f"{name} has no gymnasium spaces; it may be of the old gym: port it to gymnasium 1.x.")
    if not isinstance(seen, gymnasium.spaces.Box):
        raise InputError(f"{name} has observations of {type(seen).__name__}; allowed: Box, or what can be flattened.")
    shape = tuple(seen.shape)
    if len(shape) == 3 and seen.dtype == np.uint8:
        last = channels_last(shape)
        observation = (shape[2], *shape[:2]) if last else shape
        given = {"picture": list(shape)} if last else None
    else:
        observation = (int(np.prod(shape)),)
        given = layout(seen if raw is None else raw) if raw is not None or shape != observation else None
    if isinstance(done, gymnasium.spaces.Discrete):
        return Spaces(observation, int(done.n), first=int(done.start), given=given)
    if not isinstance(done, gymnasium.spaces.Box) or len(done.shape) != 1 or done.dtype.kind != "f":
        raise InputError(f"{name} has actions of {done}; allowed: Discrete, or a Box of one dimension of floats.")
    low, high = (tuple(float(b) for b in bounds) for bounds in (done.low, done.high))
    if np.isinf(low).all() and np.isinf(high).all():
        low, high = (-np.inf,) * len(low), (np.inf,) * len(high)
    elif not (np.isfinite(low).all() and np.isfinite(high).all() and np.less(low, high).all()):
        raise InputError(f"{name} has actions from {low} to {high}; allowed: finite, low below high, or no bounds.")
    return Spaces(observation, None, low, high, given=given)


def actions_for(spaces: Spaces) -> Callable[[np.ndarray], Any]:
    """Eq. (1): actions (E,) or (E, m) of a policy as an environment takes them."""
    if spaces.actions is not None:
        first = spaces.first
        return lambda a: (a + first).tolist() if first else a.tolist()
    if not spaces.bounded:
        return lambda a: a
    low, high = np.array(spaces.low, np.float32), np.array(spaces.high, np.float32)
    middle, half = low / 2 + high / 2, high / 2 - low / 2  # in this order, the largest bounds do not overflow
    return lambda a: np.minimum(np.maximum(middle + half * a, low), high)
