"""What the tests of the engine look at: processes that train, and what a run has left."""

import hashlib
import subprocess
from pathlib import Path

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
