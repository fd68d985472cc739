r"""Pretraining: what every method of this room does with its parameters.

    \min_θ  E_{x ~ p_data} E_{t} [ ℓ_θ(t(x)) ]                                              (1)

where t hides a part of x, or makes other forms of it, and the label is nowhere: by AdamW (Loshchilov & Hutter 2019) on
minibatches, whose step size rises over `warmup` updates and falls along a half cosine. What stays is the encoder f;
`embed` gives its features z = f(x), and `evaluate` tells what they are worth (see `judge.py`). The model that is kept
is the last one: there is no figure of the labels by which another could be chosen.

Where f maps everything to one vector, or to few directions, it has collapsed: see `collapse.py`. Its figures are
logged with every evaluation, and a warning is printed.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ptheta.data.order import generator, minibatches
from ptheta.data.pictures import moments
from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Between, Config, Estimate
from ptheta.engine.pretrained import Pretrained, model_card
from ptheta.nets.encoders import build, pooled
from ptheta.nets.optimizers import adamw
from ptheta.selfsup.collapse import alarms, rank_me, spread
from ptheta.selfsup.views import Drawn, draw, preset, view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptheta.data.pictures import PictureData

HELD_OUT = 2**40  # the step whose views, masks, … a validation split gets
BANK = 5_000  # training pictures among which neighbours are looked for while training
AT_ONCE = 500  # pictures that go through an encoder together where no gradient is needed


@dataclass(frozen=True)
class PretrainingConfig(Config):
    """Hyperparameters of eq. (1) and of the encoder."""

    batch_size: Annotated[int, Between(1)] = 256
    """Pictures in a minibatch, over all processes."""
    learning_rate: Annotated[float, Between(0, open=True)] = 2e-3
    """AdamW's step size at its highest."""
    warmup: Annotated[int, Between(0)] = 200
    """Updates over which the step size rises from zero."""
    weight_decay: Annotated[float, Between(0)] = 0.01
    """Decoupled weight decay, of matrices and convolutions alone."""
    encoder: Literal["resnet", "vit"] = "resnet"
    """The encoder that is learned."""
    width: Annotated[int, Between(1, 4096)] = 32
    """Channels of the ResNet's first stage (its features are 4 × as many), or width of the ViT's tokens."""
    depth: Annotated[int, Between(1, 64)] = 1
    """Residual blocks in each of the ResNet's three stages, or blocks of the ViT."""
    patch: Annotated[int, Between(1, 64)] = 4
    """Side of the ViT's patches, in pixels; it divides the pictures' sides."""
    cells: Annotated[int, Between(1, 16)] = 1
    """The features are means over a grid of cells × cells places of the encoder's map."""
    views: Literal["auto", "digits", "handwriting", "clothes", "photographs", "none"] = "auto"
    """How other forms of a picture are made; auto: as the data set's name asks, photographs otherwise."""


class Encoder(Pretrained):
    """Base of the models of this room: an encoder, what its inputs are normalised by, and the method's own heads.

    A model sets `name`, takes `shape` and the fields of its Config, calls `set_up`, and has
    `loss(x, step) -> (nats or other units (b,) or (), {figure: 0-d})`.
    """

    shape: tuple[int, int, int]
    rank, world = 0, 1  # in training, x is the slice number `rank` of a batch shared by `world` processes
    uses_views = True  # whether pictures are seen in other forms
    least_batch = 1  # 2 where pictures of a batch are compared with each other
    mean: Tensor
    deviation: Tensor

    def set_up(
        self, shape, seed: int, data: str, encoder: str, width: int, depth: int, patch: int, cells: int, views: str
    ):
        """The encoder with weights drawn from the seed; returns the generator for those of the heads."""
        g = generator(seed, 0, f"{self.name} weights")
        self.shape, self.seed, self.cells = tuple(shape), seed, cells
        self.encoder: Any = build(encoder, shape, g, width, depth, patch)
        self.views = preset(views, data, shape[0])
        self.register_buffer("mean", torch.zeros(shape[0]))
        self.register_buffer("deviation", torch.ones(shape[0]))
        return g

    def start_at(self, mean: Float[Tensor, " c"], deviation: Float[Tensor, " c"]) -> None:
        """Mean and standard deviation of the training pictures' channels, in [0, 1]."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=1e-3))

    def normalised(self, x: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Pictures of bytes or of [0, 1] with mean 0 and deviation 1 over the training set."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        x = x.to(self.mean.dtype)
        return (x - self.mean[:, None, None]) / self.deviation[:, None, None]

    def view(
        self, x: UInt8[Tensor, "b c h w"], step: int, stream: str, size: int | None = None, views: Any = None
    ) -> Tensor:
        """One view of each picture, normalised. Drawn for the batch of all processes, of which this has a slice."""
        b, g = len(x), generator(self.seed, step, stream, x.device)
        drawn: Drawn = draw(views or self.views, b * self.world, g, x.device)
        return self.normalised(view(x, drawn.rows(b * self.rank, b * (self.rank + 1)), size))

    def mine(self, drawn: Tensor) -> Tensor:
        """This process's rows of what was drawn for the batch of all processes."""
        b = len(drawn) // self.world
        return drawn[b * self.rank : b * (self.rank + 1)]

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """ℓ of eq. (1), of the batch or of each picture, and further figures of the method."""
        raise NotImplementedError

    def forward(self, x: UInt8[Tensor, "b c h w"], step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = self.loss(x, step)
        return loss.mean(), {name: value.detach() for name, value in figures.items()}

    def before_update(self, step: int, total: int) -> None:
        """What changes before the gradient of an update is taken (MoCo's teacher)."""

    def after_update(self, step: int, total: int) -> None:
        """What changes after an update's step (a teacher, a queue, a centre)."""

    # ------------------------------------------------------------ for users

    def check(self, x: Any) -> Tensor:
        """Pictures (b, C, H, W), of bytes or of values in [0, 1], on the model's device; InputError for others."""
        try:
            x = torch.as_tensor(x, device=self.mean.device)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"x is no array of numbers ({reason}); allowed: pictures {self._wanted()}.") from error
        if x.dim() == 2 and x.shape[1] == math.prod(self.shape):
            x = x.unflatten(1, self.shape)
        if x.dim() != 4 or tuple(x.shape[1:]) != self.shape:
            raise InputError(f"x has shape {tuple(x.shape)}; allowed: {self._wanted()}.")
        if x.is_complex() or x.dtype in (torch.uint16, torch.uint32, torch.uint64):  # which torch cannot compare
            raise InputError(f"x holds {x.dtype}; allowed: bytes (uint8), or values from 0 (black) to 1 (white).")
        if x.dtype != torch.uint8 and not ((x >= 0) & (x <= 1)).all():
            bad = x[~((x >= 0) & (x <= 1))][0].item()
            raise InputError(f"x holds {bad:g}; allowed: bytes (uint8), or values from 0 (black) to 1 (white).")
        return x

    def _wanted(self) -> str:
        return f"(b, {', '.join(map(str, self.shape))})"

    def features(self, x: Float[Tensor, "b c h w"], f: Any = None) -> Float[Tensor, "b f"]:
        """z of normalised pictures: the mean of the map, or of each cell of a grid of it; f: another encoder."""
        f = self.encoder if f is None else f
        return f(x) if self.cells == 1 else pooled(f.map(x), self.cells)

    @torch.no_grad()
    def embed(self, x: Any) -> Float[Tensor, "b f"]:
        """Features of pictures (b, C, H, W), as in eval mode. Raises InputError for another shape or other values."""
        x = self.check(x)
        training = [module for module in self.modules() if module.training]
        try:
            self.eval()  # statistics of a batch would tie a picture's features to its neighbours', and change buffers
            parts = [self.features(self.normalised(rows)).float() for rows in x.split(AT_ONCE)]
        finally:
            for module in training:
                module.training = True
        return torch.cat(parts) if len(x) else torch.zeros(0, self.feature_count, device=self.mean.device)

    @property
    def feature_count(self) -> int:
        """Length of z."""
        rows, columns = self.encoder.grid
        return self.encoder.features * min(self.cells, rows) * min(self.cells, columns)


class Pretraining:
    """The method shared by the models of this room. A subclass names `Config`, `Model` and its `steps`."""

    Config: type
    Model: type
    unit = "updates"
    steps: int
    default_data = "digits"
    figure = "loss"
    better: Literal["lower", "higher"] = "lower"
    keep: Literal["best", "last"] = "last"

    def __init__(self, config: Any, data: PictureData, seed: int, hardware: Hardware, steps: int):
        self.config, self.data, self.seed, self.hardware, self.total = config, data, seed, hardware, steps
        self.x = data.split("train").to(hardware.device)
        if len(self.x) < 2:
            raise InputError(f"{data.name} has {len(self.x)} picture to learn from; at least 2 are needed.")
        if "valid" in data.splits and len(data.split("valid")) < self.Model.least_batch:
            raise InputError(
                f"{data.name} has {len(data.split('valid'))} picture for validation and {self.Model.name} compares "
                "pictures; at least 2 are needed, which a set of 20 or more has."
            )
        if config.batch_size < self.Model.least_batch:
            raise UsageError(
                f"batch_size = {config.batch_size} is impossible for {self.Model.name}, which compares the pictures of "
                "a batch; allowed: at least 2 (option --batch-size)."
            )
        own = {k: v for k, v in config.to_dict().items() if k not in SHARED}
        self.model = self.Model(shape=list(data.shape), seed=seed, data=data.name, **own)
        self.model.start_at(*moments(self.x))
        self.model.rank, self.model.world = hardware.rank, hardware.world
        self.trained = hardware.prepare(self.model)
        self.optimizer = adamw(self.model, config.learning_rate, config.weight_decay)
        self.step, self.warned = 0, False

    @staticmethod
    def open_data(spec: Any, size: int | None, threshold: float, skip_unreadable: bool = False) -> PictureData:
        from ptheta.data.pictures import load

        return load(spec, size=size or 28, skip_unreadable=skip_unreadable)

    def batches(self, start: int, rank: int, world: int) -> Iterator[UInt8[Tensor, "b c h w"]]:
        for rows in minibatches(len(self.x), self.config.batch_size, self.seed, start, rank, world):
            yield self.x[rows.to(self.x.device)]

    def update(self, batch: Any) -> dict[str, Tensor]:
        """One step of AdamW on eq. (1)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.model.train()
        self.model.before_update(self.step, self.total)
        with self.hardware.autocast():
            loss, figures = self.trained(batch, self.step)
        self.hardware.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.after_update(self.step, self.total)
        self.step += 1
        return {"loss": loss.detach(), **figures}

    def learning_rate(self, step: int) -> float:
        """Linear rise over `warmup` updates, then a half cosine to zero at the end of the run."""
        rise = min(1.0, (step + 1) / (self.config.warmup + 1))
        return self.config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.total))))

    # ------------------------------------------------------------ figures

    @torch.no_grad()
    def evaluate(self, data: PictureData, split: str, limit: int | None = None) -> dict[str, Estimate]:
        """loss: eq. (1) with views and masks that never change; rank_me and spread: see `collapse.py`; knn: accuracy of
        neighbours among the training pictures, where there are labels (see `judge.py`), for the curves alone."""
        from ptheta.nets.probes import nearest_neighbours

        model = copy.deepcopy(self.model).eval()
        model.rank, model.world = 0, 1
        x = data.split(split)[:limit].to(self.hardware.device)
        if len(x) < model.least_batch:
            raise InputError(
                f"{data.name} has {len(x)} picture in {split} and {model.name} compares pictures; give at least 2."
            )
        size = min(self.config.batch_size, len(x))
        losses = [
            model(self.held_out(data, split, i, size), HELD_OUT + i)[0][None]
            for i in range(max(1, min(len(x), 4 * size) // size))
        ]
        features = model.embed(x[:2000])
        found = {
            "loss": Estimate.of(torch.cat(losses).cpu()),
            "rank_me": Estimate(rank_me(features), math.nan, len(features)),
            "spread": Estimate(spread(features), math.nan, len(features)),
        }
        if not self.warned and self.step and (said := alarms(found["rank_me"].mean, found["spread"].mean, features)):
            self.warned = True
            print(f"ptheta: step {self.step:,}: {said}", file=sys.stderr)
        y, of_train = data.labels(split), data.labels("train")
        if y is not None and of_train is not None:
            bank = model.embed(data.split("train")[:BANK])
            guess = nearest_neighbours(bank, of_train[: len(bank)].to(bank.device), features)
            found["knn"] = Estimate.of((guess.cpu() == y[: len(features)]).double())
        return found

    def held_out(self, data: PictureData, split: str, i: int, size: int) -> Any:
        """Batch number i of a split."""
        return data.split(split)[i * size : (i + 1) * size].to(self.hardware.device)

    def pictures(self) -> dict[str, Figure]:
        from ptheta.selfsup import pictures

        model = copy.deepcopy(self.model).eval()
        model.rank, model.world = 0, 1
        return pictures.of_model(model, self.data, self.seed)

    # ------------------------------------------------------------ files

    def save_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder, about={"data": self.data.name}, card=self.card())

    def card(self) -> str:
        """The text of the model card."""
        learned = f"An encoder of pictures {self.data.shape}, from pictures without labels"
        return model_card(self, "self-supervised", learned, f"model.embed(x)   # (b, {self.model.feature_count})")

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
        """The encoder of another model of this room (`--init`), and everything else where the method is the same."""
        own, theirs = self.model.state_dict(), model.state_dict()
        fitting = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
        f = [k for k in own | theirs if k.startswith("encoder.")]
        if differing := [k for k in f if k not in fitting]:
            what = "more layers" if differing[0] not in own else f"no {differing[0]} of this shape"
            raise InputError(
                f"--init holds another encoder (it has {what}); allowed: the same --encoder, --width, --depth and "
                "--patch for pictures of the same shape."
            )
        if model.name != self.model.name:  # a head of that name would be another thing
            fitting = {k: fitting[k] for k in f}
        self.model.load_state_dict({**own, **fitting})


SHARED = {"batch_size", "learning_rate", "warmup", "weight_decay"}


def need_two(x: Tensor, world: int, name: str) -> None:
    """UsageError for a batch of one, which a contrastive loss can compare with nothing."""
    if len(x) * world < 2:
        raise UsageError(f"{name} compares pictures of a batch and got 1; raise --batch-size to at least 2.")
