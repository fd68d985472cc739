"""The options that every run has, whatever its method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ptheta.engine.method import Between, Config


@dataclass(frozen=True)
class Options(Config):
    """What a run is told besides its method's Config. Raises UsageError for impossible values."""

    data: str | None = None
    """What to learn from: digits, mnist, fashion_mnist, binarized_mnist, debd:NAME, emoji, things, scenes, camvid,
    nested, or a file or folder of yours (default: what the method names, digits for most)."""
    env: str | None = None
    """The environment to act in, any id of gymnasium (control): another name for --data."""
    steps: Annotated[int | None, Between(1, 2**53)] = None
    """Updates in all, or steps of all environments (default: the method's own number)."""
    max_time: Annotated[float | None, Between(0, open=True)] = None
    """Stop after this many minutes, with everything saved."""
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    """Every random number of the run follows from it."""
    out: str | None = None
    """Run directory (default: runs/METHOD-DATA-seedS, numbered when it exists)."""
    resume: bool = False
    """Go on with the run in --out (or the newest default one)."""
    init: str | None = None
    """Start from the weights of this model folder or run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products in training; figures are always measured in float32."""
    threads: Annotated[int | None, Between(1)] = None
    """CPU threads (default: PyTorch's choice)."""
    keep: Annotated[int, Between(0)] = 0
    """Checkpoints to keep besides the best and the last."""
    patience: Annotated[int | None, Between(1)] = None
    """Stop after this many evaluations in a row without a better one."""
    eval_every: Annotated[int | None, Between(1)] = None
    """Updates between evaluations (default: a twentieth of the steps)."""
    eval_size: Annotated[int | None, Between(1)] = None
    """Observations of the validation split that are looked at while training (default: all)."""
    save_every: Annotated[float, Between(0)] = 60.0
    """Seconds between checkpoints, besides those at evaluations."""
    size: Annotated[int | None, Between(1, 4096)] = None
    """Sides to which a folder of images is scaled, in pixels (default: 28; with label maps the shorter side, and as it
    is; with masks the longer side, 256)."""
    skip_unreadable: bool = False
    """Leave out pictures of a folder that cannot be read, and say how many (selfsup)."""
    threshold: Annotated[float, Between(0, 1)] = 0.5
    """Grey level in [0, 1] above which a pixel is 1."""
