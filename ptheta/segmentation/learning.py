r"""Learning to label pixels: what every network of this room does with its parameters.

    \min_θ  \frac{−\sum_x a_{y(x)} \log p_θ(y(x) | picture)}{\sum_x a_{y(x)}}                               (1)

over the pixels x whose label y(x) is to be learned, with p_θ(· | picture) at x the softmax of the network's scores at
x, and a the weights of the classes (1, or by median frequency, `augmentation`, eq. (2)). Pictures and labels are seen
in other forms (`augmentation`, eq. (1)), by AdamW, whose step size rises over `warmup` updates and then falls as

    η_t = η (1 − t / T)^{0.9}                                                                                  (2)

(W. Liu, A. Rabinovich and A. Berg, "ParseNet", 2015). The model that is kept is the one of the best mean IoU on
validation data.

A network of this room takes pictures of any size from 16 pixels on: `predict` gives the labels of their pixels,
`probabilities` p_θ. Classes that are called void have labels, and no pixel is said to be of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from ptheta.data.label_maps import IGNORED, VOID
from ptheta.data.order import generator, minibatches
from ptheta.data.pictures import moments
from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Between, Config, Estimate
from ptheta.engine.pretrained import Pretrained, model_card
from ptheta.nets.encoders import processes
from ptheta.nets.optimizers import adamw
from ptheta.segmentation.augmentation import augmented, draw, median_frequency
from ptheta.segmentation.confusion import confusion
from ptheta.segmentation.metrics import scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptheta.data.pictures import PictureData

POWER = 0.9
AT_ONCE = 1 << 20  # pixels that go through a network together where no gradient is needed
RESAMPLES = 200


@dataclass(frozen=True)
class SegmentationConfig(Config):
    """Hyperparameters of eqs. (1) and (2) and of the backbone."""

    batch_size: Annotated[int, Between(1)] = 16
    """Pictures in a minibatch, over all processes."""
    learning_rate: Annotated[float, Between(0, open=True)] = 3e-3
    """AdamW's step size at its highest."""
    warmup: Annotated[int, Between(0)] = 100
    """Updates over which the step size rises from zero."""
    weight_decay: Annotated[float, Between(0)] = 0.02
    """Decoupled weight decay, of convolutions alone."""
    balance: Literal["none", "median"] = "none"
    """Weights of the classes: all alike, or by median frequency."""
    crop: Annotated[int | None, Between(8)] = None
    """Side of the square forms that are learned from, in pixels (default: the pictures' own sides)."""
    least_scale: Annotated[float, Between(0.1, 1)] = 0.6
    """Least scale of pictures in training."""
    greatest_scale: Annotated[float, Between(1, 10)] = 1.7
    """Greatest scale of pictures in training."""
    flip: Annotated[float, Between(0, 1)] = 0.5
    """Share of pictures that are mirrored in training."""
    colour: Annotated[float, Between(0, 1)] = 0.3
    """Brightness, contrast and saturation change by factors from 1 − colour to 1 + colour."""
    width: Annotated[int, Between(1, 1024)] = 24
    """Channels of the backbone's first convolution; its last map has 4 × as many."""


class Segmenter(Pretrained):
    """Base of the networks of this room. One sets `name`, calls `set_up`, and has `scores(v)`, the scores of the
    classes (b, k, H, W) for normalised pictures (b, C, H, W) of any size."""

    shape: tuple[int, int, int]
    size: int | None  # the shorter side to which pictures were scaled in training, if they were
    classes: list[str]
    mean: Tensor
    deviation: Tensor
    balance: Tensor

    def set_up(self, shape, classes, seed: int, size: int | None) -> torch.Generator:
        """What pictures are normalised by, and a generator for the weights."""
        self.shape, self.classes, self.seed, self.size = tuple(shape), list(classes), seed, size
        self.void = [i for i, name in enumerate(classes) if name.lower() in VOID]
        self.register_buffer("mean", torch.zeros(shape[0]))
        self.register_buffer("deviation", torch.ones(shape[0]))
        self.register_buffer("balance", torch.ones(len(self.classes)))
        return generator(seed, 0, f"{self.name} weights")

    def scores(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Scores of the classes, whose softmax is p_θ."""
        raise NotImplementedError

    def of_classes(self, x: Tensor) -> Float[Tensor, "b k h w"]:
        """The scores of pictures, of bytes or of [0, 1], −∞ for classes that are called void."""
        s = self.scores(self.normalised(x))
        if self.void:
            s = s.index_fill(1, torch.tensor(self.void, device=s.device), -math.inf)
        return s

    def normalised(self, x: Tensor) -> Float[Tensor, "b c h w"]:
        """Pictures of bytes or of [0, 1] with mean 0 and deviation 1 over the training set."""
        x = (x.float() / 255 if x.dtype == torch.uint8 else x).to(self.mean.dtype)
        return (x - self.mean[:, None, None]) / self.deviation[:, None, None]

    def forward(self, x: Float[Tensor, "b c h w"], y: UInt8[Tensor, "b h w"]) -> Tensor:
        """Eq. (1) over this process's share of a batch, so that the mean over processes is that of the batch."""
        s = self.of_classes(x).to(self.balance.dtype).contiguous()  # pixels side by side: a quicker log-softmax
        nats = cross_entropy(s, y.long(), self.balance, ignore_index=IGNORED, reduction="sum")
        with torch.no_grad():
            learned = y[y != IGNORED].long()
            total = self.balance[learned].sum()
            if processes() > 1:
                torch.distributed.all_reduce(total)
                total = total / processes()
        return nats / total.clamp(min=1e-6)

    # ------------------------------------------------------------ for users

    def check(self, x: Any) -> Tensor:
        """Pictures (b, C, H, W), or one (C, H, W), of bytes or of values in [0, 1]; InputError for others."""
        try:
            x = torch.as_tensor(x, device=self.mean.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"x is no array of numbers ({str(error).splitlines()[0]}).") from error
        x = x[None] if x.dim() == 3 else x
        c = self.shape[0]
        if x.dim() != 4 or x.shape[1] != c or min(x.shape[2:]) < 16:
            raise InputError(f"x has shape {tuple(x.shape)}; allowed: (b, {c}, H, W), with sides of 16 and more.")
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise InputError(f"x holds {x.dtype}; allowed: bytes (uint8), or floats from 0 (black) to 1 (white).")
        if x.dtype != torch.uint8 and not ((x >= 0) & (x <= 1)).all():
            bad = x[~((x >= 0) & (x <= 1))][0].item()
            raise InputError(f"x holds {bad:g}; allowed: bytes (uint8), or floats from 0 (black) to 1 (white).")
        return x

    @torch.no_grad()
    def probabilities(self, x: Any) -> Float[Tensor, "b k h w"]:
        """p_θ of each pixel of pictures (b, C, H, W), as in eval mode. Raises InputError for what are no pictures."""
        x = self.check(x)
        none = torch.zeros(0, len(self.classes), *x.shape[2:], device=x.device)
        return torch.cat([none, *(s.softmax(1) for s in self._scored(x))])

    @torch.no_grad()
    def predict(self, x: Any) -> UInt8[Tensor, "b h w"]:
        """The likeliest label of each pixel. Raises InputError for what are no pictures."""
        x = self.check(x)
        none = torch.zeros(0, *x.shape[2:], dtype=torch.uint8, device=x.device)
        likeliest = (s.max(1).indices for s in self._scored(x))  # argmax of a map of scores takes up to 7 times as long
        return torch.cat([none, *(labels.to(torch.uint8) for labels in likeliest)])

    def _scored(self, x: Tensor) -> Iterator[Tensor]:
        training = [module for module in self.modules() if module.training]
        try:
            self.eval()
            for rows in x.split(max(1, AT_ONCE // (x.shape[2] * x.shape[3]))):
                if len(rows):
                    yield self.of_classes(rows).float()
        finally:
            for module in training:
                module.training = True


def upsampled(scores: Float[Tensor, "b k h w"], size: Any) -> Float[Tensor, "b k H W"]:
    """Scores at the pixels of a picture, bilinear between those of the map."""
    return interpolate(scores, size=tuple(size), mode="bilinear", align_corners=False)


class Segmentation:
    """The method shared by the networks of this room. A subclass names `Config`, `Model` and its `steps`."""

    Config: type
    Model: type
    unit = "updates"
    steps: int
    default_data = "scenes"
    figure = "miou"
    better: Literal["lower", "higher"] = "higher"
    keep: Literal["best", "last"] = "best"

    def __init__(self, config: Any, data: PictureData, seed: int, hardware: Hardware, steps: int):
        self.config, self.data, self.seed, self.hardware, self.total = config, data, seed, hardware, steps
        self.x, self.y = data.split("train").to(hardware.device), maps_of(data, "train").to(hardware.device)
        self._refuse_what_teaches_nothing()
        own = {k: v for k, v in config.to_dict().items() if k not in SHARED}
        self.model = self.Model(shape=list(data.shape), classes=list(data.classes), size=data.size, seed=seed, **own)
        mean, deviation = moments(self.x)
        self.model.mean.copy_(mean)
        self.model.deviation.copy_(deviation.clamp(min=1e-3))
        if config.balance == "median":
            self.model.balance.copy_(median_frequency(self.y, len(data.classes)))
        self.trained = hardware.prepare(self.model)
        self.optimizer = adamw(self.model, config.learning_rate, config.weight_decay)
        self.step = 0

    def _refuse_what_teaches_nothing(self) -> None:
        """InputError or UsageError, before anything is written."""
        data, c = self.data, self.config
        _, h, w = data.shape
        for split in [s for s in ("train", "valid") if s in data.splits]:
            if (maps_of(data, split) == IGNORED).all():
                raise InputError(f"{data.name} has no labelled pixel in {split}: all of its labels are {IGNORED}.")
        if len(data.classes) < 2:
            raise InputError(
                f"{data.name} has the class {', '.join(data.classes)} alone; at least 2 are needed to tell apart."
            )
        if min(h, w) < 16:
            raise InputError(
                f"{data.name} has pictures of {h}x{w}; allowed: sides from 16, which --size can give them."
            )
        if c.crop and c.crop > c.greatest_scale * max(h, w):
            raise UsageError(
                f"crop = {c.crop} is more than pictures of {h}x{w} fill; allowed: up to "
                f"{int(c.greatest_scale * max(h, w))} (option --crop)."
            )

    @staticmethod
    def open_data(spec: Any, size: int | None, threshold: float, skip_unreadable: bool = False) -> PictureData:
        from ptheta.data.label_maps import load

        return load(spec, size=size)

    def batches(self, start: int, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Forms of pictures and of their labels, drawn for the batch of all processes."""
        c = self.config
        size = (c.crop, c.crop) if c.crop else self.data.shape[1:]
        every = minibatches(len(self.x), c.batch_size, self.seed, start, rank, world)
        for step, rows in enumerate(every, start):
            b, g = len(rows), generator(self.seed, step, "augmentation", self.hardware.device)
            drawn = draw(b * world, g, (c.least_scale, c.greatest_scale), c.flip, c.colour)
            rows = rows.to(self.x.device)
            yield augmented(self.x[rows], self.y[rows], drawn.rows(b * rank, b * (rank + 1)), size)

    def update(self, batch: Any) -> dict[str, Tensor]:
        """One step of AdamW on eq. (1)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.model.train()
        with self.hardware.autocast():
            loss = self.trained(*batch)
        self.hardware.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return {"loss": loss.detach()}

    def learning_rate(self, step: int) -> float:
        """Eq. (2), after a linear rise over `warmup` updates."""
        rise = min(1.0, (step + 1) / (self.config.warmup + 1))
        return self.config.learning_rate * rise * (1 - min(1.0, step / max(1, self.total))) ** POWER

    # ------------------------------------------------------------ figures

    @torch.no_grad()
    def evaluate(self, data: PictureData, split: str, limit: int | None = None) -> dict[str, Estimate]:
        """miou, pa, mpa, fwiou, dice, kappa: `metrics`, eqs. (1) to (6), of all pictures together."""
        x, y = data.split(split)[:limit], maps_of(data, split)[:limit]
        found = judged(matrices(self.model, x, y))
        return {k: v for k, v in found.items() if k == self.figure or math.isfinite(v.mean)}  # κ of one class is 0 / 0

    def pictures(self) -> dict[str, Figure]:
        from ptheta.segmentation.pictures import of_model

        return of_model(copy.deepcopy(self.model).eval(), self.data)

    # ------------------------------------------------------------ files

    def save_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder, about={"data": self.data.name}, card=self.card())

    def card(self) -> str:
        """The text of the model card."""
        learned = f"A label for every pixel, of {', '.join(self.model.classes)}"
        code = f"model.predict(x)   # x (b, {self.model.shape[0]}, H, W), bytes or [0, 1] -> labels (b, H, W)"
        return model_card(self, "image-segmentation", learned, code)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": checkpoint.optimizer_state(self.model, self.optimizer),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        checkpoint.load_optimizer_state(self.model, self.optimizer, state.get("optimizer", {}))

    def start_from(self, model: Any) -> None:
        """The weights of another network of this room (`--init`) that fit; its last layer may be of other classes."""
        own, theirs = self.model.state_dict(), model.state_dict()
        fitting = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape and k != "balance"}
        if not any(k.startswith("backbone.") for k in fitting):
            raise InputError(
                f"--init holds a {model.name} whose backbone does not fit; allowed: one of the same --width."
            )
        self.model.load_state_dict({**own, **fitting})


SHARED = {"batch_size", "learning_rate", "warmup", "weight_decay", "balance", "crop", "least_scale", "greatest_scale",
          "flip", "colour"}  # fmt: skip


def maps_of(data: PictureData, split: str) -> Tensor:
    """The label maps of a split, or InputError."""
    if (y := data.maps(split)) is None:
        raise InputError(f"{data.name} has no label maps in {split}; name data that have.")
    return y


def matrices(model: Segmenter, x: UInt8[Tensor, "n c h w"], y: UInt8[Tensor, "n h w"]) -> list[Tensor]:
    """The confusion matrix of each picture."""
    at_once = max(1, AT_ONCE // y[0].numel()) if len(y) else 1
    found = []
    for pictures, truth in zip(x.split(at_once), y.split(at_once)):
        said = model.predict(pictures.to(model.mean.device)).cpu()
        found += [confusion(t, s, len(model.classes), IGNORED) for t, s in zip(truth.cpu(), said)]
    return found


def judged(each: list[Tensor], policy: str = "mmseg") -> dict[str, Estimate]:
    """Scores of the sum of the pictures' matrices; standard errors by drawing as many pictures anew, with return."""
    if not each:
        raise InputError("there is no picture to score; name another --split.")
    p = torch.stack(each)
    found = scores(p.sum(0), policy).named()
    errors = {name: math.nan for name in found}
    if len(p) > 1:
        rows = torch.randint(len(p), (RESAMPLES, len(p)), generator=generator(0, 0, "bootstrap"))
        often = torch.stack([torch.bincount(chosen, minlength=len(p)) for chosen in rows]).double()
        sums = (often @ p.flatten(1).double()).long().view(-1, *p.shape[1:])  # of whole numbers below 2^53: exact
        again = [scores(one, policy).named() for one in sums]
        errors = {name: torch.tensor([one[name] for one in again]).double().std().item() for name in found}
    return {name: Estimate(value, errors[name], len(p)) for name, value in found.items()}
