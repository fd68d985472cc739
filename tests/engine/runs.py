"""What the tests of the engine look at: processes that train, and what a run has left."""

import hashlib
import subprocess
from pathlib import Path

import ptheta
from ptheta.engine import checkpoint

NO_HUB = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def until_it_trains(process: subprocess.Popen) -> None:
    """Wait for the line that is printed before the first update."""
    for line in process.stderr:
        if "→" in line:
            return
    raise AssertionError(f"the process ended with {process.wait()} before it trained")


def tree(folder: Path) -> dict[str, str]:
    """{file: SHA-256} of everything below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def results(run: Path) -> dict[str, bytes]:
    """What must not depend on how often a run was stopped: metrics, model, the tensors of the last checkpoint."""
    last = max(p for p in (run / "checkpoints").iterdir() if p.name.isdigit())
    files = [run / "metrics.jsonl", *sorted((run / "model").iterdir()), last / "tensors.safetensors"]
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


def whole(run: Path) -> None:
    """The run's newest checkpoint and its model load, and no half-written file lies about."""
    assert checkpoint.newest(run / "checkpoints") is not None
    ptheta.load(run)
    assert not list(run.rglob(".part-*"))


def said_clearly(err: str, *parts: str) -> None:
    """The last line is ptheta's, holds the parts, and there is no traceback."""
    assert "Traceback" not in err and "Exception" not in err, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("ptheta: ") and all(part in last for part in parts), err
