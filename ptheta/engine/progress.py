"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts up to `total` with rate, time left and the latest notes."""

    def __init__(self, start: int, total: int, unit: str, visible: bool):
        self.start, self.total, self.unit, self.visible = start, total, unit, visible
        self.notes: dict[str, str] = {}
        self.bar = None
        self.began = self.spoke = time.monotonic()

    def __enter__(self) -> Progress:
        if self.visible and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=self.total, initial=self.start, unit=f" {self.unit}", dynamic_ncols=True, smoothing=0.05
            )
        return self

    def __exit__(self, *exc) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.visible:
            self._line(self.current)

    def note(self, text: str) -> None:
        """Show `text`, in the place of the last note with the same first word."""
        self.notes[text.split()[0]] = text
        if self.bar is not None:
            self.bar.set_postfix_str(", ".join(self.notes.values()), refresh=False)

    current = 0

    def advance(self, step: int) -> None:
        self.current = step
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
        elif self.visible and time.monotonic() - self.spoke > SECONDS_BETWEEN_LINES:
            self._line(step)

    def _line(self, step: int) -> None:
        self.spoke = time.monotonic()
        rate = (step - self.start) / max(1e-9, self.spoke - self.began)
        if rate <= 0:
            return
        left = max(0, self.total - step) / rate  # the last update may go beyond
        parts = [f"{step:,}/{self.total:,} {self.unit}", f"{rate:.3g}/s", f"{clock(left)} left", *self.notes.values()]
        print("  ".join(parts), file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """3725 -> '1:02:05'; 65 -> '1:05'."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
