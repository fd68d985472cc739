r"""DINO: small pieces of a picture are to be sorted as a slow teacher sorts the whole, into classes that nobody named.

M. Caron, H. Touvron, I. Misra, H. Jégou, J. Mairal, P. Bojanowski and A. Joulin, "Emerging Properties in
Self-Supervised Vision Transformers", ICCV 2021.

Of each picture two large views and some small ones are drawn (multi-crop). Student and teacher, of weights θ and ξ, are
an encoder and a head; the head ends in K prototypes w_k of length 1, and h is its last hidden layer:

    s_k = \bar w_k · \bar h,        \bar a = a / ‖a‖                                          (1)

The student reads all views, the teacher the large ones. With t for the teacher's s,

    P_ξ = softmax((t − c) / τ_t),        P_θ = softmax(s / τ_s)                               (2)

    L = mean over large v and views v' ≠ v of  −\sum_k P_ξ(v)_k \log P_θ(v')_k                (3)

is minimised over θ alone, and after each step

    ξ ← m_k ξ + (1 − m_k) θ,        m_k = 1 − (1 − m) (\cos(π k / K') + 1) / 2                 (4)

    c ← m_c c + (1 − m_c) mean over pictures and large views of t                             (5)

in update k of K'. There are two ways to collapse: one class for all, and all classes alike, where L = \ln K. Centring,
(5), works against the first, sharpening, τ_t < τ_s, against the second. τ_t rises from 0.04 over the first updates; so
long, a sharper teacher would be one of noise. In the first `frozen` updates the student's prototypes stand still.

| symbol | shape | here |
|---|---|---|
| x | (b, C, H, W) | pictures, bytes |
| h | (b, 128) | hidden |
| s, t | (b, K) | K is `prototypes` |
| c | (K,) | `centre`, of all processes together |
| m, m_c | | `momentum`, `centre_momentum` |
| τ_s, τ_t | | `temperature`, `teacher_temperature` |

Small views have half the side of the picture, where the encoder takes any size and its map of them has `cells` rows
still: the ResNet. For the ViT, whose places are fixed, and for finer grids, they are scaled up to the picture's size.

On held-out pictures c is the mean of t over the batch, so that figures of two steps can be compared: the running c is
zero at first, where teacher and student, still equal, agree on the one class that all pictures have.

Differs from the paper: small views show at least half of `local_area`, and not an eighth, which would be blank; AdamW
with a fixed weight decay and no clipping; h has 128 and not 256 units; what is kept is the student, to which the
teacher comes close as its step size falls.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, normalize

from ptheta.engine.method import Between
from ptheta.nets.encoders import ResNet, he
from ptheta.selfsup.gather import gathered_without_gradient
from ptheta.selfsup.pretraining import Encoder, Pretraining, PretrainingConfig, need_two
from ptheta.selfsup.teacher import follow, slowness

BOTTLENECK = 128  # units of h
COLD = 0.04  # τ_t in update 0


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of DINO and of its training."""

    local_views: Annotated[int, Between(0, 32)] = 4
    """Small views of each picture."""
    local_area: Annotated[float, Between(0, 1, open=True)] = 0.4
    """Share of the picture that small views show at most, and large ones at least."""
    momentum: Annotated[float, Between(0, 1)] = 0.99
    """m of eq. (4), what the teacher keeps of itself in the first update."""
    centre_momentum: Annotated[float, Between(0, 1)] = 0.9
    """m_c of eq. (5)."""
    temperature: Annotated[float, Between(0, open=True)] = 0.1
    """τ_s of eq. (2)."""
    teacher_temperature: Annotated[float, Between(0, open=True)] = 0.07
    """τ_t of eq. (2), once it has risen."""
    teacher_warmup: Annotated[int, Between(0)] = 1000
    """Updates over which τ_t rises from 0.04."""
    frozen: Annotated[int, Between(0)] = 200
    """Updates in which the student's prototypes stand still."""
    hidden: Annotated[int, Between(1, 2**16)] = 512
    """Units of the head's two hidden layers."""
    prototypes: Annotated[int, Between(2, 2**18)] = 1024
    """K, the classes."""


def targets(t: Float[Tensor, "*b K"], centre: Float[Tensor, " K"], temperature: float) -> Float[Tensor, "*b K"]:
    """P_ξ of eq. (2): centred and sharpened; no gradient reaches t."""
    return ((t.detach() - centre) / temperature).softmax(-1)


def agreement(P: Float[Tensor, "g b K"], s: Float[Tensor, "v b K"], temperature: float) -> Float[Tensor, " b"]:
    """L of eq. (3) for each picture; the first g of the v views are the large ones that the teacher read."""
    g, v = len(P), len(s)
    with torch.autocast(s.device.type, enabled=False):
        each = -torch.einsum("gbk,vbk->gvb", P, (s / temperature).log_softmax(-1))
    same = torch.eye(g, v, device=s.device, dtype=s.dtype)[:, :, None]
    return (each * (1 - same)).sum((0, 1)) / (g * (v - 1))


class Head(nn.Module):
    """Three layers of weights W and biases b, and eq. (1)."""

    def __init__(self, g: torch.Generator, features: int, hidden: int, prototypes: int):
        super().__init__()
        sizes = [features, hidden, hidden, BOTTLENECK]
        self.W = nn.ParameterList(he(g, after, before) for before, after in zip(sizes, sizes[1:]))
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(after)) for after in sizes[1:])
        self.w = nn.Parameter(normalize(torch.randn(prototypes, BOTTLENECK, generator=g)))

    def forward(self, z: Float[Tensor, "b f"], frozen: bool = False) -> Float[Tensor, "b K"]:
        """s; the prototypes get a gradient of zero where they are frozen (of none, processes would wait for it)."""
        W, b = list(self.W), list(self.b)
        h = linear(gelu(linear(gelu(linear(z, W[0], b[0])), W[1], b[1])), W[2], b[2])
        w = normalize(self.w)
        with torch.autocast(z.device.type, enabled=False):  # in bf16, a cosine would be off by up to 1/256
            return linear(normalize(h.to(w.dtype)), w.detach() + 0 * w if frozen else w)


class DINO(Encoder):
    """Student, teacher, centre and eq. (3)."""

    name = "dino"
    least_batch = 2  # a centre of one picture would leave nothing of it
    centre: Tensor

    def __init__(
        self, shape, seed: int = 0, data: str = "", local_views: int = 4, local_area: float = 0.4,
        momentum: float = 0.99, centre_momentum: float = 0.9, temperature: float = 0.1,
        teacher_temperature: float = 0.07, teacher_warmup: int = 1000, frozen: int = 200, hidden: int = 512,
        prototypes: int = 1024, **encoder,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "local_views": local_views, "local_area": local_area,
            "momentum": momentum, "centre_momentum": centre_momentum, "temperature": temperature,
            "teacher_temperature": teacher_temperature, "teacher_warmup": teacher_warmup, "frozen": frozen,
            "hidden": hidden, "prototypes": prototypes, **encoder,
        }  # fmt: skip
        g = self.set_up(shape, seed, data, **encoder)
        self.momentum, self.centre_momentum, self.frozen = momentum, centre_momentum, frozen
        self.temperature, self.teacher_temperature, self.teacher_warmup = (
            temperature, teacher_temperature, teacher_warmup,
        )  # fmt: skip
        low, high = self.views.crop
        self.large = replace(self.views, crop=(max(low, local_area), max(high, local_area)))
        self.small = replace(self.views, crop=(local_area / 2, local_area))
        self.local_views, (_, height, width) = local_views, shape
        half, f = height // 2, self.encoder
        any_size = isinstance(f, ResNet) and height == width >= 8 and f.grid_of(half, half)[0] >= self.cells
        self.side = half if any_size else None  # of the small views; None: as the picture
        self.head = Head(g, self.feature_count, hidden, prototypes)
        self.teacher: Any = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.seen: Tensor | None = None  # this process's mean of t, until the update's step is done

    @property
    def student(self) -> nn.ModuleList:
        """Encoder and head, of which the teacher is a copy."""
        return nn.ModuleList([self.encoder, self.head])

    def heat(self, step: int) -> float:
        """τ_t at a step."""
        return COLD + (self.teacher_temperature - COLD) * min(1.0, step / max(1, self.teacher_warmup))

    @torch.no_grad()
    def teach(self, v: Float[Tensor, "b c h w"]) -> Float[Tensor, "b K"]:
        """t of views."""
        f, g = self.teacher
        return g(self.features(v, f)).float()

    def loss(self, x: UInt8[Tensor, "b c h w"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """L of eq. (3) for each picture."""
        if self.training:
            need_two(x, self.world, self.name)
        frozen, b = step < self.frozen, len(x)
        several = [[self.view(x, step, f"large view {i}", views=self.large) for i in range(2)]]
        if self.local_views:  # first, so that the running statistics are more of the large views
            small = [self.view(x, step, f"small view {i}", self.side, self.small) for i in range(self.local_views)]
            several.insert(0, small)
        read = [self.head(self.features(torch.cat(v)), frozen).float().unflatten(0, (-1, b)) for v in several]
        s = torch.cat(read[::-1])  # (2 + local views, b, K)
        t = self.teach(torch.cat(several[-1])).unflatten(0, (2, b))
        if self.training:
            self.seen = t.mean((0, 1))
        centre = self.centre.to(t.dtype) if self.training else t.mean((0, 1))
        P = targets(t, centre, self.heat(step))
        used = gathered_without_gradient(P.mean((0, 1))[None], self.world).mean(0)
        entropy = -(P * P.clamp(min=1e-12).log()).sum(-1).mean()
        return agreement(P, s, self.temperature), {
            "entropy": entropy, "classes": -(used * used.clamp(min=1e-12).log()).sum(),
        }  # fmt: skip

    def after_update(self, step: int, total: int) -> None:
        """Eqs. (4) and (5), after the optimiser's step: the only changes of ξ and c."""
        follow(self.teacher, self.student, slowness(self.momentum, step, total))
        assert self.seen is not None
        mean = gathered_without_gradient(self.seen[None], self.world).mean(0)
        self.centre.lerp_(mean.to(self.centre.dtype), 1 - self.centre_momentum)
        self.seen = None


Model = DINO


class Method(Pretraining):
    """min over θ of the mean of L, eq. (3)."""

    Config, Model = Config, DINO
    steps = 10_000

    def start_from(self, model: Any) -> None:
        """As ever; where the other model has no teacher, the teacher begins as the student."""
        super().start_from(model)
        if model.name != self.model.name:
            self.model.teacher.load_state_dict(self.model.student.state_dict())
