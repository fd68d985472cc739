r"""What an environment observes, as a row of numbers, where that is no row itself: described in JSON, with a model.

    Box, MultiBinary: the numbers in rows;    Discrete, MultiDiscrete: e_{x − start}, one unit vector for each number;
    Tuple, Dict: those of the parts, one after the other                                                         (1)

as gymnasium's own `flatten` has it, which a model that acts does without. A picture of bytes whose channels come last
is no row: it becomes (C, H, W).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ptheta.engine.errors import InputError

Layout = dict[str, Any] | None


def layout(space: Any) -> Layout:
    """The description of a gymnasium space that eq. (1) flattens; None for one that is no space of these."""
    kind = type(space).__name__
    if kind in ("Box", "MultiBinary"):
        return {"shape": list(space.shape)}
    if kind == "Discrete":
        return {"numbers": [int(space.n)], "start": [int(space.start)], "shape": []}
    if kind == "MultiDiscrete":
        numbers, start = space.nvec.flatten().tolist(), np.broadcast_to(space.start, space.shape).flatten().tolist()
        return {"numbers": numbers, "start": start, "shape": list(space.shape)}
    if kind == "Tuple":
        parts = [layout(part) for part in space.spaces]
        return None if None in parts else {"tuple": parts}
    if kind == "Dict":
        named = {name: layout(part) for name, part in space.spaces.items()}
        return None if None in named.values() else {"dict": [[name, part] for name, part in named.items()]}
    return None


def flat(described: dict[str, Any], x: Any) -> np.ndarray:
    """Eq. (1), float32 (n,). Raises InputError for what does not fit."""
    try:
        return _flat(described, x)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            f"the observation does not fit its space ({reason}); give what the environment gives."
        ) from error


def _flat(described: dict[str, Any], x: Any) -> np.ndarray:
    if "tuple" in described:
        return np.concatenate([_flat(part, value) for part, value in zip(described["tuple"], x, strict=True)])
    if "dict" in described:
        return np.concatenate([_flat(part, x[name]) for name, part in described["dict"]])
    given = np.asarray(x)
    if list(given.shape) != described["shape"]:
        raise ValueError(f"shape {given.shape} where {tuple(described['shape'])} is allowed")
    if "numbers" not in described:
        return given.astype(np.float32).reshape(-1)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{given.dtype} where whole numbers are allowed")
    units = []
    for value, n, start in zip(given.reshape(-1).tolist(), described["numbers"], described["start"], strict=True):
        if not 0 <= value - start < n:
            raise ValueError(f"{value} where {start} to {start + n - 1} is allowed")
        units.append(np.eye(1, n, value - start, dtype=np.float32)[0])
    return np.concatenate(units)


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether the last axis of a picture's three is that of the channels: it has 1, 3 or 4 of them, or fewer places
    than either of the others."""
    return shape[2] in (1, 3, 4) or shape[2] < min(shape[:2])


def rows(described: Layout, shape: tuple[int, ...], observation: Any) -> tuple[np.ndarray, bool]:
    """An observation as the environment gives it, or as methods see it, of `shape`, or several of one array: (b, …),
    float32 or bytes, and whether it was one.

    Raises InputError for another shape, for values that are not finite, and for pictures that are not bytes."""
    described = described or {}
    whole = "numbers" in described
    if ("dict" in described and isinstance(observation, dict)) or (
        "tuple" in described and isinstance(observation, tuple)
    ):
        x, one = flat(described, observation)[None], True
    else:
        x = _array(observation)
        own = tuple(described.get("shape", described.get("picture", shape)))
        if whole and x.shape == own:
            x, one = flat(described, x)[None], True
        elif not whole and x.shape[max(0, x.ndim - len(own)) :] == own and x.ndim <= len(own) + bool(own):
            one = x.ndim == len(own)
            x = x[None] if one else x
            x = np.moveaxis(x, 3, 1) if "picture" in described else x.reshape(len(x), *shape)
        elif x.shape[max(0, x.ndim - len(shape)) :] == shape and x.ndim <= len(shape) + 1:
            one = x.ndim == len(shape)
            x = x[None] if one else x
        else:
            allowed = f"{own} or rows of it" if own == shape else f"{own}, {shape}, or rows of these"
            raise InputError(f"the observation has shape {x.shape}; allowed: {allowed}.")
    if len(shape) == 3:
        if x.dtype.kind not in "iu" or (x.size and not 0 <= int(x.min()) <= int(x.max()) <= 255):
            raise InputError(f"the picture holds {x.dtype} values; allowed: bytes, whole numbers from 0 to 255.")
        return np.ascontiguousarray(x, np.uint8), one
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(x).all():
        raise InputError("the observation holds values that are not finite; mend the environment.")
    return x, one


def _array(observation: Any) -> np.ndarray:
    """Of numbers, or InputError."""
    try:
        x = np.asarray(observation.detach().cpu() if hasattr(observation, "detach") else observation)
    except ValueError as error:
        raise InputError("the observation is no array: its rows have different lengths.") from error
    if x.dtype.kind not in "fiub":
        raise InputError(f"the observation is of type {type(observation).__name__}; allowed: numbers.")
    return x
