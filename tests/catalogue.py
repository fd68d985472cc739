"""The methods of the catalogue, each with settings that are small and quick to learn."""

import importlib
from pathlib import Path

import pytest
from made_folders import labelled, masked, painted

import ptheta
from ptheta.engine.run import Run
from ptheta.methods import METHODS

PAINTED, LABELLED, MASKED = painted(), labelled(), masked()
# Small and quick to learn. What is not here trains on the digits with its defaults.
DEFAULT = {"data": "digits", "learning_rate": 0.01, "warmup": 0}
SETTINGS = {
    "nade": {"hidden": 16},
    "made": {"hidden": (24, 16), "masks": 2, "ordering": "random"},
    "orderless": {"hidden": (64, 48)},
    "pixelcnn": {"channels": 8, "layers": 3, "batch_size": 32},
    "transformer": {"width": 16, "depth": 2, "heads": 2, "dropout": 0.1, "batch_size": 32},
    "rnade": {"hidden": 12, "mixtures": 3, "batch_size": 32},
    **{name: {"width": 8, "hidden": 32, "project": 16, "batch_size": 64} for name in ("simclr", "byol", "vicreg")},
    "moco": {"width": 8, "hidden": 32, "project": 16, "batch_size": 64, "queue": 256},
    "dino": {"width": 8, "hidden": 32, "batch_size": 64, "prototypes": 64, "local_views": 1, "frozen": 0},
    "mae": {"width": 32, "depth": 1, "patch": 2, "decoder_width": 16, "decoder_depth": 1, "batch_size": 64},
    "inpaint": {"width": 8, "batch_size": 64},
    "denoise": {"width": 8, "batch_size": 64},
    "jigsaw": {"width": 8, "hidden": 32, "batch_size": 64, "grid": 2, "permutations": 4},
    "rotation": {"width": 8, "hidden": 32, "batch_size": 64},
    "colourise": {"data": PAINTED, "size": 12, "width": 8, "batch_size": 32},
    **{name: {"data": LABELLED, "width": 8, "batch_size": 16} for name in ("context", "deeplab", "hdc")},
    "sam": {"data": MASKED, "size": 64, "batch_size": 4, "prompts": 2, "interactions": 3, "learning_rate": 0.002},
    "reinforce": {"data": "ptheta/GridWorld-v0", "envs": 2, "hidden": (16,)},
    **{
        name: {"data": "CartPole-v1", "envs": 4, "hidden": (16,), "rollout": 8}
        for name in ("qac", "a2c", "npg", "trpo")
    },
    "offpac": {"data": "ptheta/GridWorld-v0", "envs": 4, "hidden": (), "rollout": 8},
    "dqn": {"data": "CartPole-v1", "envs": 2, "hidden": (16,), "warmup": 16, "batch_size": 32},
    **{
        name: {
            "data": "Pendulum-v1",
            "envs": 2,
            "hidden": (16,),
            "warmup": 16,
            "batch_size": 32,
            "learning_rate": 0.002,
        }
        for name in ("ddpg", "wolpertinger")
    },
    "clip": {
        "data": PAINTED,
        "size": 12,
        "width": 8,
        "project": 16,
        "text_width": 16,
        "text_depth": 1,
        "batch_size": 32,
    },
}
STEPS, STOP = 40, 17  # updates
CONTROL = [name for name, module in METHODS.items() if module.startswith("ptheta.control.")]
UNITS = {  # of the first update, and of each other one, where they are not updates
    "reinforce": (200, 200),
    **dict.fromkeys(("qac", "a2c", "npg", "trpo", "offpac"), (32, 32)),
    **dict.fromkeys(("dqn", "ddpg", "wolpertinger"), (16, 2)),
}
LEARNED = [name for name in METHODS if name not in CONTROL]  # of the others, control/test_NAME.py shows that they learn
DENSITIES = [name for name, module in METHODS.items() if module.startswith("ptheta.density.")]
REAL = ["rnade"]  # densities of real vectors: finite numbers are fine, and log p may be above zero
BINARY = [name for name in DENSITIES if name not in REAL]
every_method = pytest.mark.parametrize("name", METHODS)
every_density = pytest.mark.parametrize("name", DENSITIES)
every_binary_density = pytest.mark.parametrize("name", BINARY)


def settings(name: str) -> dict:
    return {**({} if name in CONTROL else DEFAULT), **SETTINGS.get(name, {})}


def units(name: str, updates: int) -> int:
    """What --steps counts, after so many updates."""
    first, more = UNITS.get(name, (1, 1))
    return first + (updates - 1) * more


def module(name: str):
    return importlib.import_module(METHODS[name])


def train(name: str, out: Path, **options) -> Run:
    """A short run on one thread; the same for the same seed."""
    return ptheta.train(
        name,
        out=str(out),
        **{
            "steps": units(name, STEPS),
            "eval_every": units(name, 10),
            "threads": 1,
            **({"eval_size": 2} if name in CONTROL else {}),
            **settings(name),
            **options,
        },
    )
