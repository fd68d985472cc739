r"""The loop. It counts, logs, evaluates, saves and stops; the equations are in the method."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Method
from ptheta.engine.options import Options
from ptheta.engine.progress import Progress
from ptheta.engine.run import Run

NEVER = 2**62


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved itself."""

    def __init__(self, signum: int, step: int, out: Path):
        super().__init__(f"stopped at step {step:,}")
        self.signum, self.step, self.out = signum, step, out


def fit(method: Method, data: Any, run: Run, options: Options, hardware: Hardware) -> None:
    """Train `method`: `fitting`, with its own update for each batch."""
    with stop_signals() as received, closing(fitting(method, data, run, options, hardware, received)) as going:
        try:
            batch = next(going)
            while True:
                batch = going.send(method.update(batch))
        except StopIteration:
            pass


def fitting(
    method: Method, data: Any, run: Run, options: Options, hardware: Hardware, received: list[int],
    visible: bool = True,
) -> Generator[Any, dict[str, torch.Tensor], None]:  # fmt: skip
    """The loop: it gives a batch and is sent what the update with it has told, so that several loops can go side by
    side (`ptheta.together`).

    It trains `method` up to `options.steps` of its units, going on from the newest checkpoint if there is one. An
    update is one unit, or as many as it says it has used; the last one may then go beyond `steps`.

    Every `eval_every` steps the figure of the validation split (the training split if there is none) is measured;
    the best model so far, or the newest, as `method.keep` says, is written to `run.model`. A checkpoint is written
    then and every `save_every` seconds.

    received: Signals that ask it to stop, as they arrive. visible: Whether a person sees its progress.

    Raises InputError on a loss that is not finite (the last good checkpoint stays) or a full disk,
    and Interrupted after Ctrl-C or SIGTERM, with everything saved.
    """
    steps = options.steps or method.steps
    eval_every = options.eval_every or max(1, steps // 20)
    log_every = max(1, min(50 if method.unit == "updates" else steps // 500, eval_every))
    split = "valid" if "valid" in data.splits else "train"
    sign = 1.0 if method.better == "lower" else -1.0
    step, best_step, best, kept = 0, 0, math.inf, []
    bad = torch.full((), NEVER, device=hardware.device)  # the first step whose loss was not finite
    sums: dict[str, torch.Tensor] = {}  # of what updates have logged since the last line of the metrics,
    counts: dict[str, int] = {}  # and in how many of them it was

    if (found := checkpoint.newest(run.checkpoints)) is not None:
        step, state = found
        method.load_state_dict(state["method"])
        best_step, best = state["best_step"], state["best"]
        kept = [*state["kept"], step][-options.keep :] if options.keep else []
        sums = {name: value.to(hardware.device) for name, value in state.get("sums", {}).items()}
        counts = state["counts"] if "counts" in state else {name: state["summed"] for name in sums}
    if hardware.main:
        run.cut_back(found[1]["log_sizes"] if found else {name: 0 for name in run.metrics_size()})

    def refuse(what: str) -> None:
        good = max((s for s, _ in checkpoint.steps(run.checkpoints)), default=None)
        kept = f"the checkpoint of step {good:,} is kept" if good is not None else "no checkpoint had been written yet"
        raise InputError(
            f"{what} is not finite; {kept} in {run.path}. Try a smaller --learning-rate, or --precision fp32."
        )

    def refuse_if_bad() -> None:
        if (first := int(hardware.least(bad))) < NEVER:
            refuse(f"the loss of step {first:,}")

    def save() -> None:
        nonlocal sums
        refuse_if_bad()
        sums = {name: hardware.mean(value) for name, value in sums.items()}  # rank 0 writes for all
        state = {
            "method": method.state_dict(), "best_step": best_step, "best": best, "kept": kept,
            "sums": sums, "counts": counts, "log_sizes": run.metrics_size(),
        }  # fmt: skip
        if (bad_tensor := checkpoint.not_a_number(state)) is not None:
            refuse(f"{bad_tensor} after step {step:,}")
        if hardware.main:
            checkpoint.save(run.checkpoints, step, state, keep={best_step, *kept})
            kept[:] = ([*kept, step])[-options.keep :] if options.keep else []
        hardware.wait()

    def evaluate() -> None:
        nonlocal best, best_step
        refuse_if_bad()
        figures = method.evaluate(data, split, options.eval_size)
        value = sign * figures[method.figure].mean
        if not math.isfinite(value):
            refuse(f"the {split} {method.figure} of step {step:,}")
        if hardware.main:
            run.log(step, split, flat(figures))
        progress.note(f"{split} {method.figure} {figures[method.figure].mean:.4g}")
        if better := value < best:
            best, best_step = value, step
        if hardware.main and (better or method.keep == "last"):
            with checkpoint.full_disk_is_an_input_error(f"the model of step {step} in {run.path}"):
                method.save_model(run.model)

    def ended() -> bool:
        return step >= steps or bool(options.patience and step - best_step >= options.patience * eval_every)

    progress = Progress(step, steps, method.unit, hardware.main and visible)
    started = saved = time.monotonic()
    with progress:
        if found is None:
            evaluate()
            save()
        if not ended():
            for batch in method.batches(step, hardware.rank, hardware.world):
                logs = yield batch
                before, step = step, step + int(logs.pop("units", 1))
                bad = torch.where(torch.isfinite(logs["loss"]), bad, bad.clamp(max=step))
                for name, value in logs.items():
                    sums[name] = sums[name] + value if name in sums else value.clone()
                    counts[name] = counts.get(name, 0) + 1
                if step // log_every > before // log_every:
                    refuse_if_bad()
                    means = {
                        n: hardware.mean(sums[n]).item() / counts[n] for n in sorted(sums)
                    }  # as a checkpoint gives them
                    sums, counts = {}, {}
                    if hardware.main:
                        run.log(step, "train", means)
                    progress.note(f"loss {means['loss']:.4g}")
                progress.advance(step)
                now = time.monotonic()
                stop = hardware.agree(
                    bool(received) or bool(options.max_time and now - started > 60 * options.max_time)
                )
                if step // eval_every > before // eval_every or step >= steps:
                    evaluate()
                    save()
                    saved = now
                elif stop or hardware.agree(now - saved > options.save_every):
                    save()
                    saved = now
                if stop or ended():
                    break
    signum = torch.tensor(received[0] if received else 0, device=hardware.device)
    if (signum := -int(hardware.least(-signum))) > 0:  # in every process, whichever was asked to stop
        raise Interrupted(signum, step, run.path)
    if hardware.main:
        from ptheta.engine.curves import curves

        run.draw({"curves": curves(run.metrics()), **method.pictures()})


def flat(figures: dict[str, Any]) -> dict[str, float]:
    """{"nats": Estimate} as {"nats": mean, "nats_se": standard error}: the names of metrics.jsonl and --json."""
    out: dict[str, float] = {}
    for name, estimate in figures.items():
        out[name] = estimate.mean
        if not math.isnan(estimate.standard_error):
            out[f"{name}_se"] = estimate.standard_error
    return out


@contextmanager
def stop_signals():
    """List that receives SIGINT and SIGTERM while inside; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def note(signum, frame):
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are somebody else's
        before = {}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
