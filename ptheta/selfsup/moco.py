r"""MoCo: a picture is to know its other view among thousands of keys, which a slow encoder has left in a queue.

K. He, H. Fan, Y. Wu, S. Xie and R. Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning",
CVPR 2020.
X. Chen, H. Fan, R. Girshick and K. He, "Improved Baselines with Momentum Contrastive Learning", 2020 (v2: a head of
two layers, stronger views).
Z. Cai, A. Ravichandran, S. Maji, C. Fowlkes, Z. Tu and S. Soatto, "Exponential Moving Average Normalization for
Self-Supervised and Semi-Supervised Learning", CVPR 2021 (the teacher's batch norms).

Of each picture two views are drawn. The first is the query q = g_θ(f_θ(v)), the second the key k = g_ξ(f_ξ(v')), both
of length 1; k_1 … k_K is the queue, keys of earlier batches. For each query

    ℓ = −\log \frac{\exp(q · k / τ)}{\exp(q · k / τ) + \sum_{j=1}^{K} \exp(q · k_j / τ)}       (1)

is minimised over θ alone; where all keys are alike it is \ln(K + 1). Before the keys of an update are made, the
teacher follows

    ξ ← m ξ + (1 − m) θ                                                                       (2)

and after its step they take the place of the queue's oldest. So K does not depend on the batch, and the keys agree
with one another as far as ξ is slow.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, bytes |
| q, k | (b, d) | query and key |
| k_1 … k_K | (K, d) | `queue`, the oldest of all at `pointer` |
| m, τ | | `momentum`, `temperature` |

**Batch norm.** In a batch of their own, a query and its key share the statistics by which both are normalised, and the
keys in the queue have others: the query can find its key by that, and learn nothing. The paper shuffles the batch
between machines, so that keys are normalised among other pictures. Here the teacher is in eval mode (Cai et al.): it
normalises by statistics that follow the student's running ones as the weights do, by eq. (2); a key depends on its own
picture alone, and there is nothing to shuffle. On the 8×8 digits (160 updates, queue 512, seeds 0 to 3) neighbours of
features told the digit with 0.89 0.91 0.92 0.93, with the batch's statistics in the teacher 0.86 0.90 0.88 0.91, and
with the student's newest ones, which do not fit the teacher's older weights, 0.90 0.74 0.77 0.79.

Differs from the papers: batch norm as above; the queue begins with the keys of training pictures and not with noise, so
that (1) means the same from the first update on; AdamW in place of SGD; m is 0.99 and K = 4096, as for CIFAR-10, in
place of 0.999 and 65,536.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ptheta.data.order import minibatches
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Between
from ptheta.nets.encoders import MLP
from ptheta.selfsup.gather import gathered_without_gradient
from ptheta.selfsup.pretraining import Encoder, Pretraining, PretrainingConfig, need_two


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of MoCo and of its training."""

    temperature: Annotated[float, Between(0, open=True)] = 0.2
    """τ of eq. (1)."""
    queue: Annotated[int, Between(1, 2**20)] = 4096
    """K, keys in the queue; a multiple of the pictures in a batch."""
    momentum: Annotated[float, Between(0, 1)] = 0.99
    """m of eq. (2), what the teacher keeps of itself in an update."""
    hidden: Annotated[int, Between(1, 2**16)] = 256
    """Hidden units of g."""
    project: Annotated[int, Between(1, 2**16)] = 128
    """Dimensions of q and k."""


def scores(
    q: Float[Tensor, "b d"], k: Float[Tensor, "b d"], queue: Float[Tensor, "K d"], temperature: float
) -> Float[Tensor, "b K1"]:
    """The exponents of eq. (1), that of the query's own key first; no gradient reaches the keys."""
    own = (q * k.detach()).sum(1, keepdim=True)
    with torch.autocast(q.device.type, enabled=False):  # in bf16, a cosine would be off by up to 1/256
        others = q @ queue.detach().t()
    return torch.cat([own, others], 1) / temperature


def info_nce(scores: Float[Tensor, "b K1"]) -> Float[Tensor, " b"]:
    """ℓ of eq. (1) for each query."""
    return cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long), reduction="none")


def need_whole(queue: int, batch: int) -> None:
    """UsageError for a queue that is not a whole number of batches, so that part of one would be the oldest."""
    if queue % batch:
        below = queue // batch * batch
        near = " or ".join(f"{k}" for k in (below, below + batch) if k)
        raise UsageError(
            f"queue = {queue} is no multiple of the {batch} pictures of a batch; allowed: {batch}, {2 * batch}, "
            f"{3 * batch}, …, nearest {near} (option --queue), or another --batch-size."
        )


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Eq. (2) with m = momentum, of weights and of running statistics."""
    for mine, theirs in zip((teacher.parameters, teacher.buffers), (student.parameters, student.buffers)):
        if new := [t.detach() for t in theirs()]:
            torch._foreach_lerp_(list(mine()), new, 1 - momentum)


class MoCo(Encoder):
    """Student, teacher, queue and eq. (1)."""

    name = "moco"
    least_batch = 2  # for the batch norm of the head
    queue: Tensor
    pointer: Tensor

    def __init__(
        self, shape, seed: int = 0, data: str = "", temperature: float = 0.2, queue: int = 4096,
        momentum: float = 0.99, hidden: int = 256, project: int = 128, **encoder,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "temperature": temperature, "queue": queue,
            "momentum": momentum, "hidden": hidden, "project": project, **encoder,
        }  # fmt: skip
        g = self.set_up(shape, seed, data, **encoder)
        self.temperature, self.momentum = temperature, momentum
        self.head = MLP(g, self.feature_count, hidden, project)
        self.teacher: Any = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.register_buffer("queue", normalize(torch.randn(queue, project, generator=g)))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.fresh: Tensor | None = None  # the keys of an update, until its step is done

    @property
    def student(self) -> nn.ModuleList:
        """f_θ and g_θ, of which the teacher is a copy."""
        return nn.ModuleList([self.encoder, self.head])

    def train(self, mode: bool = True) -> MoCo:
        """The student's mode; the teacher is always in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def keys(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """k of views."""
        f, g = self.teacher
        return normalize(g(self.features(v, f)).float())

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """ℓ of eq. (1) for each picture."""
        if self.training:
            need_two(x, self.world, self.name)
        q = normalize(self.head(self.features(self.view(x, step, "first view"))).float())
        k = self.keys(self.view(x, step, "second view"))
        if self.training:
            self.fresh = k
        s = scores(q, k, self.queue.to(q.dtype), self.temperature)
        return info_nce(s), {"alike": (q * k).sum(1).mean(), "found": (s.argmax(1) == 0).float().mean()}

    def before_update(self, step: int, total: int) -> None:
        """Eq. (2), before the keys are made: the only change of ξ."""
        follow(self.teacher, self.student, self.momentum)

    def after_update(self, step: int, total: int) -> None:
        """The keys of the last loss take their places, once an update."""
        assert self.fresh is not None
        self.enqueue(self.fresh)
        self.fresh = None

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "b d"]) -> None:
        """Keys of all processes in place of the oldest. Raises UsageError if the queue is no multiple of them."""
        keys = gathered_without_gradient(keys, self.world)
        need_whole(len(self.queue), len(keys))
        at = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[at] = keys.to(self.queue.dtype)
        self.pointer.copy_((self.pointer + len(keys)) % len(self.queue))


Model = MoCo


class Method(Pretraining):
    """min over θ of the mean of ℓ, eq. (1)."""

    Config, Model = Config, MoCo
    steps = 10_000

    def __init__(self, config: Any, data: Any, seed: int, hardware: Hardware, steps: int):
        super().__init__(config, data, seed, hardware, steps)
        need_whole(config.queue, min(config.batch_size, len(self.x)))
        self.fill()

    def fill(self) -> None:
        """The queue full of keys of training pictures, by the teacher as it is."""
        model, size = self.model, min(self.config.batch_size, len(self.x))
        rows = minibatches(len(self.x), size, self.seed, 0, model.rank, model.world)
        for i, mine in zip(range(len(model.queue) // size), rows):
            model.enqueue(model.keys(model.view(self.x[mine.to(self.x.device)], i, "first keys")))

    def start_from(self, model: Any) -> None:
        """As ever; where the other model has no teacher, it begins as the student, and its keys fill the queue."""
        super().start_from(model)
        if model.name != self.model.name:
            self.model.teacher.load_state_dict(self.model.student.state_dict())
            self.fill()
