r"""A window in which a person makes masks with the help of a model.

    left click, right click   a point inside, outside of what is meant: the answers are shown at once, of what is
                              small from the second on after a closer look (`closer`)
    1, 2, 3                   one of the three answers to a first click (the one expected to be best is shown first)
    c                         the answer that is shown, after a closer look; and back
    b                         brush on and off: drag with the left button to add, with the right one to take away
    + and -                   a larger brush, a smaller one
    enter                     accept the answer: it is on disk from then on
    backspace                 take back what was painted, or the last click
    x                         throw out the mask under the pointer
    n                         the picture is done: the next one
    q                         leave; what was accepted is kept, and the next sitting begins with this picture

Source: our own; after section 4 of A. Kirillov et al., "Segment Anything", ICCV 2023.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ptheta.data import rle
from ptheta.data.instances import Example
from ptheta.engine.errors import UsageError
from ptheta.sam.closer import Closer, Turn
from ptheta.sam.data_engine import Left, Masks, Work, told
from ptheta.sam.overlays import overlay
from ptheta.sam.predictor import Predictor

KEYS = (
    "left: inside   right: outside   1 2 3: which answer   c: closer   b: brush, + - its size   enter: accept   "
    "backspace: undo   x: throw out   n: next   q: leave"
)


class Sitting:
    """One picture in the window. Its handlers are what the window calls; they need no screen."""

    def __init__(self, predictor: Predictor, x: np.ndarray, filled: Masks, keep: Callable[[Masks], None]):
        self.closer, self.x, self.masks, self.keep = Closer(predictor, x), x, list(filled), keep
        self.points: list[tuple[float, float]] = []
        self.labels: list[int] = []
        self.turns: list[Turn] = []
        self.shown = 0
        self.far: tuple[Turn, int] | None = None
        self.brush, self.radius = False, max(1, max(x.shape) // 64)
        self.paint: np.ndarray | None = None
        self.clicks = self.thrown_out = self.painted = 0
        self.done = self.left = False
        self.began = time.perf_counter()

    def click(self, x: float, y: float, inside: bool) -> None:
        """Ask with one point more."""
        self.points.append((x, y))
        self.labels.append(int(inside))
        self.clicks += 1
        self.paint = None
        self._ask()

    def drag(self, x: float, y: float, inside: bool) -> None:
        """Add a disc to the answer, or take it away."""
        h, w = self.x.shape[:2]
        if self.paint is None:
            self.paint = np.zeros((h, w), bool) if (answer := self.mask()) is None else answer.copy()
        rows, columns = np.ogrid[:h, :w]
        self.paint[(rows - y) ** 2 + (columns - x) ** 2 <= self.radius**2] = inside

    def mask(self) -> np.ndarray | None:
        """What would be accepted."""
        if self.paint is not None:
            return self.paint
        return self.turns[-1].answer.masks[self.shown].cpu().numpy() if self.turns else None

    def _ask(self) -> None:
        before = self.turns[-1] if self.turns else None
        self.turns.append(self.closer.ask(self.points, self.labels, before, self.shown))
        self.shown, self.far = int(self.turns[-1].answer.ious.argmax()), None

    def _look(self) -> None:
        """The answer that is shown after a closer look, where there is one; the second time as it was."""
        if self.far is not None:
            (self.turns[-1], self.shown), self.far = self.far, None
        elif near := self.closer.nearer(self.points, self.labels, self.turns[-1], self.shown):
            self.far = self.turns[-1], self.shown
            self.turns[-1], self.shown = near, 0
        self.paint = None

    def key(self, key: str | None, x: float | None = None, y: float | None = None) -> None:
        """What a key does; x, y: where the pointer is."""
        if key in ("1", "2", "3") and self.turns and int(key) <= len(self.turns[-1].answer.masks):
            self.shown, self.paint = int(key) - 1, None
        elif key == "c" and self.turns:
            self._look()
        elif key == "b":
            self.brush = not self.brush
        elif key in ("+", "-"):
            self.radius = max(1, self.radius + (1 if key == "+" else -1))
        elif key == "enter" and (mask := self.mask()) is not None:
            self._accept(mask)
        elif key == "backspace" and self.paint is not None:
            self.paint = None
        elif key == "backspace" and self.points:
            for of in (self.points, self.labels, self.turns):
                of.pop()
            self.shown, self.far = int(self.turns[-1].answer.ious.argmax()) if self.turns else 0, None
        elif key == "x" and x is not None and y is not None:
            self._throw_out(x, y)
        elif key == "n":
            self.done = True
        elif key == "q":
            self.left = True

    def _accept(self, mask: np.ndarray) -> None:
        seconds, count = time.perf_counter() - self.began, len(self.points)
        how = {"source": "person"} if self.paint is None else {"source": "person", "painted": True}
        self.masks.append(told(mask, **how, clicks=count, seconds=seconds))
        self.painted += self.paint is not None
        self.points, self.labels, self.turns, self.paint, self.far = [], [], [], None, None
        self.began = time.perf_counter()
        self.keep(self.masks)

    def _throw_out(self, x: float, y: float) -> None:
        """Of the masks under a place the smallest."""
        under = [one for one in self.masks if rle.decode(one["segmentation"])[int(y), int(x)]]
        if under:
            self.masks.remove(min(under, key=lambda one: one["area"]))
            self.clicks, self.thrown_out = self.clicks + 1, self.thrown_out + 1
            self.keep(self.masks)

    def picture(self) -> np.ndarray:
        """What is shown: masks that are there, and the answer in white."""
        x = overlay(self.x, [rle.decode(one["segmentation"]) for one in self.masks])
        if (mask := self.mask()) is not None:
            x[mask] = (0.5 * x[mask] + 127).astype(np.uint8)
        return x


class Person:
    """An annotator at a screen. Raises UsageError where there is none."""

    def __init__(self) -> None:
        import matplotlib.pyplot as plt

        if plt.get_backend().lower() in ("agg", "svg", "pdf", "ps", "cairo", "template"):
            raise UsageError("there is no screen for a window; work at one, or add --simulate for pictures with masks.")
        settings: Any = plt.rcParams
        for name in [name for name in settings if name.startswith("keymap.")]:
            settings[name] = []  # keys are ours
        self.figure = plt.figure("ptheta annotate", figsize=(9, 8))

    def annotate(self, predictor: Predictor, example: Example, filled: Masks, keep: Callable[[Masks], None]) -> Work:
        """Show a picture until the person is done with it. Raises Left."""
        started = time.perf_counter()
        sitting = Sitting(predictor, example.picture.transpose(1, 2, 0), filled, keep)
        canvas: Any = self.figure.canvas
        self.figure.clear()
        axes = self.figure.add_axes((0, 0, 1, 0.95))

        def draw() -> None:
            axes.clear()
            axes.imshow(sitting.picture())
            axes.set_title(f"{example.name}: {len(sitting.masks)} masks\n{KEYS}", fontsize=7)
            axes.set_axis_off()
            for (x, y), label in zip(sitting.points, sitting.labels):
                axes.plot(x, y, "o", color="lime" if label else "red", markeredgecolor="black")
            canvas.draw_idle()

        def after(event: Any, act: Callable[[], None]) -> None:
            act()
            draw()
            if sitting.done or sitting.left:
                canvas.stop_event_loop()

        def clicked(event: Any) -> None:
            if event.inaxes is axes and event.button in (1, 3):
                act = sitting.drag if sitting.brush else sitting.click
                after(event, lambda: act(event.xdata, event.ydata, event.button == 1))

        def moved(event: Any) -> None:
            if sitting.brush and event.inaxes is axes and event.button in (1, 3):
                after(event, lambda: sitting.drag(event.xdata, event.ydata, event.button == 1))

        def pressed(event: Any) -> None:
            after(event, lambda: sitting.key(event.key, event.xdata, event.ydata))

        def closed(event: Any) -> None:
            sitting.left = True
            canvas.stop_event_loop()

        names = {
            "button_press_event": clicked, "motion_notify_event": moved, "key_press_event": pressed,
            "close_event": closed,
        }  # fmt: skip
        handles = [canvas.mpl_connect(name, handler) for name, handler in names.items()]
        draw()
        self.figure.show()
        canvas.start_event_loop()
        for handle in handles:
            canvas.mpl_disconnect(handle)
        if sitting.left:
            raise Left
        return Work(sitting.masks, sitting.clicks, sitting.thrown_out, sitting.painted, time.perf_counter() - started)
