"""Run directories with figures that a test chooses, without a training."""

import json
from pathlib import Path

START = 1_700_000_000


def written(
    path: Path, values, method="trpo", seed=0, steps=None, figure="return_mean", split="valid", data="CartPole-v1",
    config=None, options=None, fingerprint=None, starts=(START,), times=None, **more,
) -> Path:  # fmt: skip
    """A run that has measured `values` of a figure, every 1,000 steps and every minute unless told otherwise."""
    path.mkdir(parents=True)
    plain = {"data": data, "env": None, "steps": 100_000, "seed": seed, "out": str(path), "resume": False, "init": None}
    plain |= {"eval_every": None, "precision": "auto", "threads": 1}
    about = {
        "format": 1, "method": method, "seed": seed, "config": config or {}, "options": {**plain, **(options or {})},
        "data": {"spec": data, "fingerprint": fingerprint or f"of {data}", "size": None, "threshold": 0.5},
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(about))
    steps = steps if steps is not None else [1000 * k for k in range(len(values))]
    times = times if times is not None else [START + 60 * k for k in range(len(values))]
    with open(path / "metrics.jsonl", "w") as metrics, open(path / "times.jsonl", "w") as wall:
        for step, value, time in zip(steps, values, times, strict=True):
            line = {"step": step, "split": split, figure: value, f"{figure}_se": 0.1, **more}
            print(json.dumps(line), file=metrics)
            print(json.dumps({"step": step, "split": split, "time": time}), file=wall)
    for start in starts:
        (path / f"events.out.tfevents.{int(start)}.host.{int(start * 1e9)}").touch()
    return path
