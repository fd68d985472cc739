r"""Prompts for pictures that were looked at before: the part of `model` that is asked many times.

    predictor = Predictor(ptheta.sam.load("sam_vit_b_01ec64.pth"))
    predictor.set_image("dog.jpg")
    answer = predictor.predict(points=[[320, 240]], labels=[1])        # three masks, as one point may mean several
    answer.masks, answer.ious                                          # (3, H, W) bool, (3,)
    predictor.predict(points=..., labels=..., masks=answer.best().logits, several=False)

All coordinates are those of the picture's own pixels, x before y.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptheta.data.images import as_colour, read_colour
from ptheta.engine.errors import InputError, UsageError
from ptheta.sam.mask_decoder import MASKS
from ptheta.sam.model import SAM


@dataclass(frozen=True)
class Answer:
    """Masks for one prompt, (k, …), or for b of them, (b, k, …); k is 3 where several were wanted, else 1."""

    masks: Bool[Tensor, "*b k H W"]
    """Of the picture's size."""
    ious: Float[Tensor, "*b k"]
    """What the model expects their IoU with the truth to be."""
    logits: Float[Tensor, "*b k h w"]
    """(…, side, side) of the model's: what the next prompt may start from."""

    def best(self) -> Answer:
        """The mask of the greatest expected IoU of each prompt, k = 1."""
        at = self.ious.argmax(-1, keepdim=True)
        masks, logits = (x.take_along_dim(at[..., None, None], -3) for x in (self.masks, self.logits))
        return Answer(masks, self.ious.take_along_dim(at, -1), logits)


class Predictor:
    """Answers prompts by a model. precision: of the image encoder and the decoder, float32 or bfloat16."""

    def __init__(self, model: SAM, precision: Literal["fp32", "bf16"] = "fp32"):
        if precision not in ("fp32", "bf16"):
            raise UsageError(f"precision {precision!r} is unknown; allowed: fp32, bf16.")
        self.model = model.eval()
        self.precision: Literal["fp32", "bf16"] = precision
        self.images: Float[Tensor, "i c h w"] | None = None
        self.sizes: list[tuple[int, int]] = []
        self.one = True

    def _precise(self) -> Any:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.model.mean.device.type, dtype=torch.bfloat16)

    # ------------------------------------------------------------ pictures

    @torch.no_grad()
    def set_image(self, picture: Any) -> None:
        """Look at a picture, or at a list of them: a file, a Pillow image, or bytes (H, W, 3), (H, W, 4) or (H, W).

        Raises InputError for what is none."""
        self.one = not isinstance(picture, list | tuple)
        pictures = [self.opened(p) for p in ([picture] if self.one else picture)]
        if not pictures:
            raise InputError("there is no picture in the list; give at least one.")
        device = self.model.mean.device
        framed = torch.cat([self.model.framed(self._scaled(p).to(device))[None] for p in pictures])
        with self._precise():
            self.images = torch.cat([self.model.embed_image(x[None]) for x in framed]).float()
        self.sizes = [(p.shape[0], p.shape[1]) for p in pictures]

    @staticmethod
    def opened(picture: Any) -> np.ndarray:
        """As uint8 (H, W, 3)."""
        from PIL import Image

        if isinstance(picture, str | Path):
            if not Path(picture).is_file():
                raise InputError(f"{picture} is no file; give the path of a picture.")
            return read_colour(Path(picture))
        if isinstance(picture, Image.Image):
            return as_colour(picture, "the picture")
        x = np.asarray(picture)
        if x.dtype != np.uint8 or x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[2] not in (1, 3, 4)) or x.size == 0:
            raise InputError(
                f"a picture of {x.dtype} with shape {x.shape} is impossible; allowed: bytes (uint8) of (H, W, 3), "
                "(H, W, 4) or (H, W), a Pillow image, or a file."
            )
        return as_colour(Image.fromarray(x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x), "the picture")

    def _scaled(self, picture: np.ndarray) -> Tensor:
        """(3, h, w), its longer side that of the model, by Pillow's antialiased bilinear filter."""
        from PIL import Image

        h, w = self.model.scaled(*picture.shape[:2])
        x = np.asarray(Image.fromarray(picture).resize((w, h), Image.Resampling.BILINEAR))
        return torch.from_numpy(x.copy()).permute(2, 0, 1)

    # ------------------------------------------------------------ prompts

    @torch.no_grad()
    def predict(
        self, points: Any = None, labels: Any = None, boxes: Any = None, masks: Any = None, several: bool = True,
        words: Any = None,
    ) -> Any:  # fmt: skip
        """The Answer to one prompt, or to b of them for the same picture; of several pictures a list, where each
        argument is a list too, with None for what a picture has not.

        points: (n, 2), or (b, n, 2). labels: (n,), or (b, n): 1 inside, 0 outside. boxes: (4,), or (b, 4): left, top,
        right, bottom. masks: logits of an Answer, (1, h, w), or (b, 1, h, w). several: three masks, for prompts that
        may mean several things, or one. words: (e,), or (b, e): what a model of pictures and texts says of them.

        Raises UsageError before a picture was set, InputError for prompts that are outside of it, empty, or do not fit
        each other."""
        if self.images is None:
            raise UsageError("there is no picture to ask about; call set_image first.")
        if self.one:
            return self._asked(0, points, labels, boxes, masks, words, several)
        given = [x if x is not None else [None] * len(self.sizes) for x in (points, labels, boxes, masks, words)]
        if any(len(x) != len(self.sizes) for x in given):
            raise InputError(
                f"prompts are for {', '.join(str(len(x)) for x in given)} pictures, and {len(self.sizes)} were set; "
                "give lists with one entry a picture."
            )
        return [self._asked(i, p, l, x, m, v, several) for i, (p, l, x, m, v) in enumerate(zip(*given))]

    def _asked(self, i: int, points: Any, labels: Any, boxes: Any, masks: Any, words: Any, several: bool) -> Answer:
        if words is not None and not self.model.words:
            raise UsageError("the model knows no words; train one with --words, or give points or a box.")
        prompt = checked(self.sizes[i], self.model.side, points, labels, boxes, masks, words, self.model.words)
        alone = prompt.pop("alone")
        m, s = self.decoded(i, **prompt, several=several)
        full = self.model.enlarged(m, *self.sizes[i]) > 0
        one = (lambda x: x[0]) if alone else (lambda x: x)
        return Answer(one(full), one(s), one(m))

    def _framed(self, i: int, at: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        """Places of picture i in pixels of the frame."""
        (h, w), (rows, columns) = self.sizes[i], self.model.scaled(*self.sizes[i])
        scale = torch.tensor([columns / w, rows / h], dtype=torch.float64)
        return (at.double() * scale).float().to(self.model.mean.device)

    @torch.no_grad()
    def looked(self, points: Float[Tensor, "b 2"]) -> tuple[Tensor, Tensor, Float[Tensor, "b 4"]]:
        """`SAM.looked`: b prompts of one point inside each, in pixels of the first picture."""
        assert self.images is not None
        at = self._framed(0, points)
        inside = torch.ones(len(at), 1, dtype=torch.long, device=at.device)
        with self._precise():
            t, z, s = self.model.looked(self.images[:1], at[:, None], inside)
        return t, z, s.float()

    @torch.no_grad()
    def masks_of(self, t: Float[Tensor, "b n c"], z: Float[Tensor, "b L c"]) -> Float[Tensor, "b 3 h w"]:
        """The three masks of such prompts, logits."""
        assert self.images is not None
        with self._precise():
            return self.model.mask_decoder.masks(t, z, self.images[:1], slice(1, MASKS)).float()

    def decoded(
        self, i: int, points: Any = None, labels: Any = None, boxes: Any = None, masks: Any = None, words: Any = None,
        several: bool = True,
    ) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b k"]]:  # fmt: skip
        """Logits of masks, and expected IoUs, for prompts in pixels of picture i."""
        assert self.images is not None
        device = self.model.mean.device
        at = None if points is None else self._framed(i, points)
        box = None if boxes is None else self._framed(i, boxes.view(-1, 2, 2)).view(-1, 4)
        label = None if labels is None else labels.to(device)
        mask = None if masks is None else masks.float().to(device)
        with self._precise():
            said = None if words is None else words.float().to(device)
            m, s = self.model.decode(self.images[i : i + 1], at, label, box, mask, several, said)
        return m.float(), s.float()


def checked(
    size: tuple[int, int], side: int, points: Any, labels: Any, boxes: Any, masks: Any, words: Any = None, e: int = 0
) -> dict[str, Any]:
    """A prompt's parts as tensors, each with b first, and whether it was one prompt alone.

    Raises InputError, see `Predictor.predict`."""
    h, w = size
    if (points is None) != (labels is None):
        raise InputError("points and labels belong together; give both, or neither.")
    if points is None and boxes is None and masks is None and words is None:
        raise InputError("the prompt is empty; give points with labels, boxes, words, or masks.")
    ranks = {"points": (points, 2, (2,)), "labels": (labels, 1, ()), "boxes": (boxes, 1, (4,)),
             "masks": (masks, 3, (1, side, side)), "words": (words, 1, (e,))}  # fmt: skip
    found: dict[str, Any] = {}
    alone: dict[str, bool] = {}
    for name, (x, rank, last) in ranks.items():
        if x is None:
            continue
        x = _tensor(name, x)
        if x.dim() not in (rank, rank + 1) or (last and tuple(x.shape[x.dim() - len(last) :]) != last):
            shape = {"points": "(n, 2)", "labels": "(n,)", "boxes": "(4,)", "masks": f"(1, {side}, {side})",
                     "words": f"({e},)"}[name]  # fmt: skip
            raise InputError(f"{name} have shape {tuple(x.shape)}; allowed: {shape}, or the same with b before it.")
        alone[name] = x.dim() == rank
        found[name] = x[None] if alone[name] else x
    if len({len(x) for x in found.values()}) != 1 or len(set(alone.values())) != 1:
        told = ", ".join(f"{name} {tuple(_tensor(name, ranks[name][0]).shape)}" for name in found)
        raise InputError(f"{told}: these are not for the same number of prompts; give the same b for each.")
    if "points" in found:
        _points(found["points"], found["labels"], h, w)
        found["labels"] = found["labels"].long()
    if "boxes" in found:
        _boxes(found["boxes"], h, w)
    return {**found, "alone": next(iter(alone.values()))}


def _tensor(name: str, x: Any) -> Tensor:
    try:
        x = torch.as_tensor(np.asarray(x) if isinstance(x, Sequence) else x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} are no array of numbers ({str(error).splitlines()[0]}).") from None
    x = x.float() if x.dtype != torch.float64 else x
    if not x.isfinite().all():
        raise InputError(f"{name} hold values that are not finite; allowed: finite ones.")
    return x.cpu()


def _points(at: Tensor, labels: Tensor, h: int, w: int) -> None:
    if at.shape[:2] != labels.shape:
        raise InputError(
            f"{at.shape[1]} points have {labels.shape[1]} labels; allowed: one label a point, 1 inside or 0 outside."
        )
    if at.shape[1] == 0:
        raise InputError("there are no points in the prompt; give at least one.")
    if not ((labels == 0) | (labels == 1)).all():
        bad = labels[(labels != 0) & (labels != 1)][0].item()
        raise InputError(f"labels hold {bad:g}; allowed: 1 inside, 0 outside.")
    outside = (at < 0).any(-1) | (at[..., 0] > w) | (at[..., 1] > h)
    if outside.any():
        x, y = at[outside][0].tolist()
        raise InputError(f"the point ({x:g}, {y:g}) is outside of the picture; allowed: x from 0 to {w}, y to {h}.")


def _boxes(boxes: Tensor, h: int, w: int) -> None:
    left, top, right, bottom = boxes.unbind(1)
    empty = (right <= left) | (bottom <= top)
    if empty.any():
        raise InputError(
            f"the box {_numbers(boxes[empty][0])} is reversed or empty; allowed: left, top, right, bottom with left < "
            "right and top < bottom."
        )
    outside = (left < 0) | (top < 0) | (right > w) | (bottom > h)
    if outside.any():
        raise InputError(
            f"the box {_numbers(boxes[outside][0])} reaches out of the picture; allowed: x from 0 to {w}, y to {h}."
        )


def _numbers(x: Tensor) -> str:
    return "(" + ", ".join(f"{v:g}" for v in x.tolist()) + ")"
