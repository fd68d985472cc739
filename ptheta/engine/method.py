r"""What every method is: the contract between a paper and the loop that trains it.

A *method* owns a model, an objective and an update rule. The loop in `fit.py`
pulls batches from it and calls `update`; it never sees an equation. A method's
module exposes three names: `Config` (its hyperparameters), `Model` (the
distribution that it learns, an `nn.Module`) and `Method` (a class with the
members of the protocol below).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Union

from ptheta.engine.errors import UsageError, unknown

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from ptheta.engine.hardware import Hardware


class Between:
    """Range of a Config field, `Annotated[int, Between(1)]`: low <= value <= high (low < value if `open`)."""

    def __init__(self, low: float, high: float = math.inf, open: bool = False):
        self.low, self.high, self.open = low, high, open

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.open else self.low <= value) and value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open else f"at least {self.low:g}"
        return low if self.high == math.inf else f"{low} and at most {self.high:g}"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of a method: a frozen dataclass whose fields carry their ranges and one line of text each.

    Raises UsageError on construction for a value of the wrong type or out of range.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            value = _checked(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]):
        """The Config of a dict (JSON lists stand for tuples); UsageError for a field that does not exist."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise unknown("field", name, names)
        return cls(**values)


def _checked(name: str, value: Any, hint: Any) -> Any:
    """`value` as its annotation `hint` wants it, or UsageError with the value got and the values allowed."""
    option = f"(field {name}, option --{name.replace('_', '-')})"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        value = _checked(name, value, args[0])
        for bound in (a for a in args[1:] if isinstance(a, Between)):
            for item in value if isinstance(value, tuple) else (value,):
                if item is not None and item not in bound:
                    raise UsageError(f"{name} = {item} is impossible; allowed: {bound} {option}.")
        return value
    if origin is Literal:
        if value not in args:
            raise unknown(name, value, [str(a) for a in args], option + ".")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _checked(name, value, next(a for a in args if a is not type(None)))
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{name} = {value!r} is no list; allowed: a list of {args[0].__name__} {option}.")
        return tuple(_checked(name, item, args[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise UsageError(f"{name} = {value!r} is of type {type(value).__name__}; allowed: {hint.__name__} {option}.")
    return value


@dataclass(frozen=True)
class Estimate:
    """A figure measured on a sample: its mean, the standard error of that mean, and the sample's size."""

    mean: float
    standard_error: float
    n: int

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Estimate of the expectation from independent values of shape (n,); the standard error is s/√n."""
        values = values.double()
        spread = values.std().item() / math.sqrt(values.numel()) if values.numel() > 1 else math.nan
        return cls(values.mean().item(), spread, values.numel())


Batch = Any


class Method(Protocol):
    """See the module's docstring. Randomness is keyed by (seed, step, stream) and never carried."""

    unit: str  # what --steps counts: updates | env_steps | tokens
    steps: int  # how many of them a run has when nobody says
    default_data: str  # and what it learns from then
    figure: str  # the key of `evaluate` that tells how good the model is
    better: Literal["lower", "higher"]
    keep: Literal["best", "last"]  # which model is kept: that of the best figure so far, or the newest

    def __init__(self, config: Config, data: Any, seed: int, hardware: Hardware, steps: int): ...

    @staticmethod
    def open_data(spec: Any, size: int | None, threshold: float, skip_unreadable: bool = False) -> Any:
        """The observations that `spec` names, in the form that this method learns from."""
        ...

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        """Endless batches from step `start` on, this process's share of each."""
        ...

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """The paper's rule, once. Returns detached 0-d tensors (`loss` among them, and `units`, how many of `unit` it
        has used, if that is not one)."""
        ...

    def evaluate(self, data: Any, split: str, limit: int | None = None) -> dict[str, Estimate]:
        """The field's figures on the first `limit` observations of a split; changes no state."""
        ...

    def pictures(self) -> dict[str, Figure]:
        """What a person would rather look at than read; changes no state."""
        ...

    def save_model(self, folder: Any) -> None:
        """Write the model, as it would be used, into a `save_pretrained` folder."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Nested dict of tensors and JSON values: all that is needed to go on bit for bit."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
