r"""Maximum likelihood: what every model of this room does with its parameters.

    \min_θ  KL(p_data ‖ p_θ)  =  \min_θ  E_{x ~ p_data}[ −\log p_θ(x) ] − H(p_data)       (1)

by Adam (Kingma & Ba 2015) on minibatches. The model that is evaluated, saved and used
is the exponential average of the iterates (Polyak & Juditsky 1992):

    \bar θ_t = α_t \bar θ_{t−1} + (1 − α_t) θ_t,    α_t = \min(α, (t + 1)/(t + 10))        (2)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.data.order import minibatches
from ptheta.density.joint import every_class, figures, join, keep_labels, labels_of, partly_labelled
from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Between, Config, Estimate
from ptheta.engine.pretrained import model_card

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptheta.data.binary import BinaryData

AVERAGE_EVERY = 10  # updates between two steps of eq. (2), whose α is taken to this power


@dataclass(frozen=True)
class LikelihoodConfig(Config):
    """Hyperparameters of eqs. (1) and (2)."""

    batch_size: Annotated[int, Between(1)] = 100
    """Vectors in a minibatch, over all processes."""
    learning_rate: Annotated[float, Between(0, open=True)] = 1e-3
    """Adam's step size at its highest."""
    warmup: Annotated[int, Between(0)] = 100
    """Updates over which the step size rises from zero."""
    decay: Annotated[float, Between(0, 1)] = 1.0
    """Share of the run over which, at its end, the step size falls to zero along a half cosine; 0: constant."""
    weight_decay: Annotated[float, Between(0)] = 0.0
    """Decoupled weight decay (AdamW)."""
    average: Annotated[float, Between(0, 0.999999)] = 0.998
    """α of eq. (2); 0 takes the last iterate."""
    label: Literal["none", "first", "last"] = "none"
    """Learn the joint p(x, y) of vectors and labels, the label before or after the variables of x."""
    labelled: Annotated[int | None, Between(1)] = None
    """How many training vectors keep their label, equally many of each class (default: all)."""


class MaximumLikelihood:
    """The method shared by the models of this room. A subclass names `Config`, `Model` and its `steps`."""

    Config: type
    Model: type
    unit = "updates"
    default_data = "digits"
    steps: int
    figure = "nats"
    better: Literal["lower", "higher"] = "lower"
    keep: Literal["best", "last"] = "best"

    def __init__(self, config: Any, data: BinaryData, seed: int, hardware: Hardware, steps: int):
        self.config, self.data, self.seed, self.hardware, self.total = config, data, seed, hardware, steps
        self.x, classes = vectors(data, config, seed)
        self.x = self.x.to(hardware.device)
        own = {f for f in config.to_dict() if f not in LikelihoodConfig.__dataclass_fields__}
        self.model = self.Model(
            n=self.x.shape[1], shape=data.shape, seed=seed, label=config.label, classes=classes,
            **{k: v for k, v in config.to_dict().items() if k in own},
        )  # fmt: skip
        self.model.start_at(log_odds(self.x))
        self.model.rank, self.model.world = hardware.rank, hardware.world
        self.trained = hardware.prepare(self.model)
        self.averaged = copy.deepcopy(self.model).requires_grad_(False).eval()
        shares = self.model.step_shares()
        groups: dict[float, list[Tensor]] = {}
        for name, p in self.model.named_parameters():
            groups.setdefault(shares.get(name, 1.0), []).append(p)
        self.optimizer = torch.optim.AdamW(
            [{"params": p, "share": share} for share, p in groups.items()],
            lr=config.learning_rate, weight_decay=config.weight_decay, fused=True,
        )  # fmt: skip
        self.step = 0

    @staticmethod
    def open_data(spec: Any, size: int | None, threshold: float, skip_unreadable: bool = False) -> BinaryData:
        from ptheta.data.binary import load

        return load(spec, size=size or 28, threshold=threshold)

    def batches(self, start: int, rank: int, world: int) -> Iterator[Float[Tensor, "b n"]]:
        for rows in minibatches(len(self.x), self.config.batch_size, self.seed, start, rank, world):
            yield self.x[rows.to(self.x.device)].to(self.model.dtype)

    def update(self, batch: Float[Tensor, "b n"]) -> dict[str, Tensor]:
        """One step of Adam on eq. (1), then eq. (2)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step) * group["share"]
        self.model.train()
        with self.hardware.autocast():
            loss = self.nats(batch).mean()
        self.hardware.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.step % AVERAGE_EVERY == 0 or self.step < AVERAGE_EVERY:
            every = AVERAGE_EVERY if self.step >= AVERAGE_EVERY else 1
            alpha = min(self.config.average, (self.step + 1) / (self.step + 10)) ** every
            torch._foreach_lerp_(
                list(self.averaged.parameters()), [p.detach() for p in self.model.parameters()], 1 - alpha
            )
        return {"loss": loss.detach()}

    def nats(self, batch: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """−log p of each vector; where some labels are unknown, from the densities with every class, if need be."""
        if self.config.labelled is None or self.model.takes_unlabelled:
            return self.trained(batch, self.step)
        _, code = self.model.split(batch)
        return partly_labelled(self.trained(every_class(batch, self.model.classes, self.model.label), self.step), code)

    def learning_rate(self, step: int) -> float:
        """Linear rise over `warmup` updates, constant, then a half cosine over the last `decay` of the run."""
        rise = min(1.0, (step + 1) / (self.config.warmup + 1))
        left = (self.total - step) / max(1.0, self.config.decay * self.total) if self.config.decay else 1.0
        return self.config.learning_rate * rise * 0.5 * (1 - math.cos(math.pi * min(1.0, left)))

    def evaluate(self, data: BinaryData, split: str, limit: int | None = None) -> dict[str, Estimate]:
        """Figures of the averaged model: see `evaluate`."""
        y = None if self.config.label == "none" else labels_of(data, split)[:limit]
        return evaluate(self.averaged, data.split(split)[:limit], y)

    def pictures(self) -> dict[str, Figure]:
        from ptheta.density import pictures

        return pictures.of_model(self.averaged, self.data, self.seed)

    def save_model(self, folder: Path) -> None:
        self.averaged.save_pretrained(folder, about={"data": self.data.name}, card=self.card())

    def card(self) -> str:
        """The text of the model card."""
        learned = f"p(x) of binary vectors with {self.data.n} variables"
        code = "model.log_prob(x)   # nats, (b,)\nmodel.sample(16)\nmodel.complete(x, observed)\nmodel.embed(x)"
        return model_card(self, "density-estimation", learned, code)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": checkpoint.optimizer_state(self.model, self.optimizer),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        checkpoint.load_optimizer_state(self.model, self.optimizer, state.get("optimizer", {}))

    def start_from(self, model: Any) -> None:
        """Weights of another model of the same kind and size (`--init`), before the first update."""
        if model.arguments != self.model.arguments and {k: v.shape for k, v in model.state_dict().items()} != {
            k: v.shape for k, v in self.model.state_dict().items()
        }:
            raise InputError(
                f"--init holds a {model.name} of {model.arguments}; this run wants {self.model.arguments}."
            )
        self.model.load_state_dict(model.state_dict())
        self.averaged.load_state_dict(model.state_dict())


def log_odds(x: Tensor) -> Float[Tensor, " n"]:
    """Log-odds of each variable, (N, n) -> (n,), with one count of either value added (Laplace)."""
    ones, count = x.sum(0, dtype=torch.float64), len(x)
    return ((ones + 1) / (count - ones + 1)).log().float()


def vectors(data: BinaryData, config: LikelihoodConfig, seed: int) -> tuple[Tensor, int]:
    """The training vectors, (N, n), with their labels' columns for a joint model, and the number of classes."""
    x = data.split("train")
    if config.label == "none":
        if config.labelled is not None:
            raise UsageError(f"labelled = {config.labelled} wants a joint model; add --label first or --label last.")
        return x, 0
    y = labels_of(data, "train")
    classes = int(y.max()) + 1
    if config.labelled is not None:
        y = keep_labels(y, config.labelled, seed)
    return join(x, y, classes, config.label), classes


def evaluate(model: Any, x: Tensor, y: Tensor | None = None) -> dict[str, Estimate]:
    """Figures of a model over vectors x (N, n_x).

    nats: mean −log p(x); bits_per_dim: the same / (n_x ln 2). Of a joint model with labels y (N,), nats is the mean
    −log p(x, y), and there are nats_x (of x alone), accuracy and ece of p(y | x): see `joint.figures`.
    """
    if len(x) == 0:
        raise InputError("there is no vector to evaluate on; name another --split.")
    if model.label == "none":
        found = {"nats": Estimate.of(-model.log_prob(x).cpu())}
    else:
        if y is None:
            raise UsageError(f"this {model.name} is of p(x, y); give the labels of the vectors too.")
        found = figures(model.joint_log_prob(x), y.cpu())
    of_x = found.get("nats_x", found["nats"])
    bit = model.n_x * math.log(2)
    return found | {"bits_per_dim": Estimate(of_x.mean / bit, of_x.standard_error / bit, of_x.n)}
