r"""RNADE: the real-valued neural autoregressive density-estimator.

B. Uria, I. Murray and H. Larochelle, "RNADE: The real-valued neural autoregressive density-estimator", NIPS 2013.

NADE for real vectors: one weight matrix W is shared by all conditionals, and each conditional is a mixture of K
Gaussians whose parameters are linear in the hidden units. On standardised variables \tilde x_d = (x_d − m_d)/s_d:

    a_1 = c,     a_{d+1} = a_d + \tilde x_d W_d                                               (1)
    h_d = ReLU(ρ_d a_d)                                                                       (2)
    π_d = softmax(V^π_d h_d + b^π_d),   μ_d = V^μ_d h_d + b^μ_d,
    σ_d = σ_{\min} + \exp(V^σ_d h_d + b^σ_d)                                                  (3)
    p(\tilde x_d | \tilde x_{<d}) = \sum_k π_{dk} N(\tilde x_d; μ_{dk}, σ_{dk}²)              (4)
    \log p(x) = \sum_d \log p(\tilde x_d | \tilde x_{<d}) − \log s_d                          (5)

The last term makes (5) the density of x as it is given, whatever its units; m and s are the mean and the standard
deviation of each training column and belong to the model. A density may exceed one, so that −log p may be negative.
Both figures that are measured, nats and bits_per_dim = nats/(n \log 2), are differential and shift by \log c for every
variable in units c times smaller; they compare models of the same columns in the same units and nothing else.

One uniform number u draws from (4): the component k with F_{k−1} ≤ u < F_k, F_k = \sum_{j ≤ k} π_j, then

    \tilde x = μ_k + σ_k Φ^{−1}((u − F_{k−1})/π_k)                                            (6)

since, given k, the fraction is again uniform.

| symbol | shape | here |
|---|---|---|
| x | (b, n) | real vectors in their own units |
| m, s | (n,) | `mean`, `scale`: of the training rows, in the state dict |
| W, c | (n, h), (h,) | the paper's W transposed: row d belongs to variable d |
| ρ | (n,) | scale of the activation, which grows with the number of terms in it |
| V, b | (n, h, 3K), (n, 3K) | V^π, V^μ, V^σ side by side, and their biases |

Differs from the paper: σ_min (0.001 of a column's standard deviation) bounds the density, which would else run off to
infinity on values that recur exactly; Adam with weight averaging in place of gradient ascent with μ's gradient
multiplied by σ; ρ_d starts at 1/\sqrt d, V at zero (the variables are independent at first), b^μ at K quantiles of
N(0, ¼) and b^σ where (4) has variance one. `digits` are here the grey levels 0 … 16 plus uniform noise in [0, 1), so
that −log p is at least the nats of the grey levels themselves (Theis, van den Oord and Bethge 2016).

Expected: test −log p of the grey digits 100.0 ± 0.7 nats (one Gaussian with full covariance 131.7, a mixture of 60
diagonal ones 116.4) after some seconds, before it learns its 1,257 training vectors by heart, by
`ptheta train rnade --learning-rate 0.003 --average 0.98 --weight-decay 1 --steps 300 --eval-every 25`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ptheta.data.order import generator
from ptheta.data.real import RealData, load
from ptheta.density.autoregressive import Autoregressive, Marginal, visiting_order
from ptheta.density.likelihood import LikelihoodConfig, MaximumLikelihood
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.method import Between

SIGMA_MIN = 1e-3  # of eq. (3), in standard deviations of the column
BLOCK = 100  # vectors whose hidden units, (n, b, h), are held at a time where no gradient is taken


@dataclass(frozen=True)
class Config(LikelihoodConfig):
    """Hyperparameters of RNADE and of its training."""

    hidden: Annotated[int, Between(1, 2**20)] = 100
    """Hidden units h."""
    mixtures: Annotated[int, Between(1, 1024)] = 10
    """Gaussians K of each conditional."""
    ordering: Literal["natural", "random"] = "natural"
    """The order in which the variables are visited; random: drawn once from the seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_labels(self.label)


def refuse_labels(label: str) -> None:
    """UsageError for a joint model: a label is no real number."""
    if label != "none":
        raise UsageError(f"label = {label} is impossible; rnade learns p(x) of real vectors alone (option --label).")


def linear_outputs(a: Float[Tensor, "b h"], rho: Tensor, V: Tensor, b: Tensor) -> Float[Tensor, "b 3K"]:
    """Eq. (2), and V h + b of eq. (3), of one variable."""
    return torch.addmm(b, torch.relu(rho * a), V)


class Mixture(NamedTuple):
    """Parameters of eq. (4), the components along the last axis."""

    log_pi: Float[Tensor, "*b K"]
    mu: Float[Tensor, "*b K"]
    log_sigma: Float[Tensor, "*b K"]

    @classmethod
    def of(cls, outputs: Float[Tensor, "*b 3K"]) -> Mixture:
        """Eq. (3) from V h + b. \\log(σ_min + e^s) is taken as a whole: e^s overflows long before."""
        pi, mu, s = outputs.chunk(3, -1)
        return cls(pi.log_softmax(-1), mu, torch.logaddexp(s, s.new_tensor(math.log(SIGMA_MIN))))

    def log_prob(self, x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Eq. (4) in nats."""
        z = (x[..., None] - self.mu) * (-self.log_sigma).exp()
        each = self.log_pi - 0.5 * z.square() - self.log_sigma
        return each.logsumexp(-1) - 0.5 * math.log(2 * math.pi)

    def draw(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Eq. (6)."""
        pi = self.log_pi.exp()
        F = pi.cumsum(-1)
        k = (u[..., None] >= F).sum(-1, keepdim=True).clamp(max=pi.shape[-1] - 1)
        p, mu, log_sigma = (v.gather(-1, k)[..., 0] for v in (pi, self.mu, self.log_sigma))
        tiny = torch.finfo(u.dtype).eps / 2  # u may be 0, and rounding may bring the fraction to 0 or 1
        fraction = ((u - (F - pi).gather(-1, k)[..., 0]) / p).clamp(tiny, 1 - tiny)
        return mu + log_sigma.exp() * torch.special.ndtri(fraction)


class RNADE(Autoregressive):
    """p(x) of eqs. (1)–(5). Parameters are stored by variable, so that row i belongs to x_i in any ordering."""

    name = "rnade"
    components = 1

    def __init__(
        self, n: int, hidden: int = 100, mixtures: int = 10, ordering: str = "natural", seed: int = 0, shape=None,
        label: str = "none", classes: int = 0,
    ):  # fmt: skip
        super().__init__()
        refuse_labels(label)
        self.arguments = {
            "n": n, "hidden": hidden, "mixtures": mixtures, "ordering": ordering, "seed": seed, "shape": shape,
        }  # fmt: skip
        self.n, self.shape = n, tuple(shape) if shape else None
        g = generator(seed, 0, "rnade")
        self.o: Tensor
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("o", visiting_order(n, ordering, g))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))
        place = self.o.argsort() + 1.0
        self.W = nn.Parameter((2 * torch.rand(n, hidden, generator=g) - 1) * math.sqrt(6 / (n + hidden)))
        self.c = nn.Parameter(torch.zeros(hidden))
        self.rho = nn.Parameter(place.rsqrt())
        self.V = nn.Parameter(torch.zeros(n, hidden, 3 * mixtures))
        mu = torch.special.ndtri((torch.arange(mixtures) + 0.5) / mixtures) / 2
        s = torch.full_like(mu, math.log(math.sqrt(1 - mu.square().mean()) - SIGMA_MIN))
        self.b = nn.Parameter(torch.cat([torch.zeros(mixtures), mu, s]).repeat(n, 1))

    def order(self, k: int = 0) -> Int[Tensor, " n"]:
        return self.o

    def start_at(self, log_odds: Float[Tensor, " n"]) -> None:
        """Nothing: real variables have no log-odds. `standardise` is what the data set here."""

    def standardise(self, mean: Float[Tensor, " n"], scale: Float[Tensor, " n"]) -> None:
        """Set m and s of eq. (5)."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def standardised(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """The variables of eqs. (1)–(4)."""
        return (x - self.mean.to(x.dtype)) / self.scale.to(x.dtype)

    # ------------------------------------------------------------ density

    def conditionals(self, x: Float[Tensor, "b n"]) -> Mixture:
        """Eqs. (1)–(3) of standardised x for every variable, (n, b, K), in the ordering.

        Step by step, since (b, h) stays in the cache where (n, b, h) does not.
        """
        a, outputs = self.c.expand(len(x), -1), []
        W, V, b, rho, xt = (v.unbind() for v in (self.W, self.V, self.b, self.rho, x.t()))
        for d in self.o.tolist():
            outputs.append(linear_outputs(a, rho[d], V[d], b[d]))
            a = torch.addr(a, xt[d], W[d])
        return Mixture.of(torch.stack(outputs))

    def forward(self, x: Float[Tensor, "b n"], step: int = 0) -> Float[Tensor, " b"]:
        """−log p(x) in nats, eq. (5)."""
        with torch.autocast(x.device.type, enabled=False):  # eight bits of μ would blur every narrow Gaussian
            x = self.standardised(x)
            return self.scale.to(x.dtype).log().sum() - self.conditionals(x).log_prob(x[:, self.o].t()).sum(0)

    def component_log_prob(self, x: Float[Tensor, "b n"], k: int = 0) -> Float[Tensor, " b"]:
        return torch.cat([-self(rows) for rows in x.split(BLOCK)])

    def marginal(self, x: Any, observed: Any, seed: int = 0, particles: int = 1024, most: int = 0) -> Marginal:
        """log p(x_observed), by draws where the observed variables do not come first in the ordering.

        Raises UsageError for `most` above 0: there is no sum over the values of a real variable.
        """
        if most:
            raise UsageError(f"most = {most} is impossible; allowed: 0, real variables have no list of values to sum.")
        return super().marginal(x, observed, seed, particles, 0)

    # ------------------------------------------------------------ along the ordering

    def clamped(
        self, x: Float[Tensor, "b n"], observed: Bool[Tensor, "b n"], u: Float[Tensor, "b n"], k: int = 0
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
        """Eqs. (1)–(4) and (6), one variable after another. log w is of x in its own units, as in (5)."""
        z, u, free = self.standardised(x), u.to(x.dtype), not bool(observed.any())
        scale = self.scale.to(x.dtype)
        a, log_w = self.c.repeat(len(x), 1), x.new_zeros(len(x))
        for d in self.o.tolist():
            mixture = Mixture.of(linear_outputs(a, self.rho[d], self.V[d], self.b[d]))
            drawn, seen = mixture.draw(u[:, d]), observed[:, d]
            if not free:
                log_w += torch.where(seen, mixture.log_prob(z[:, d]) - scale[d].log(), 0.0)
            z[:, d] = torch.where(seen, z[:, d], drawn)
            a = torch.addr(a, z[:, d], self.W[d])
        return torch.where(observed, x, z * scale + self.mean.to(x.dtype)), log_w

    @torch.no_grad()
    def embed(self, x) -> Float[Tensor, "b h"]:
        """ReLU(a_{n+1}) of eq. (1): the hidden units once the whole vector is seen, without a ρ."""
        return torch.relu(self.c + self.standardised(self.check(x)) @ self.W)

    def check(self, x: Any) -> Float[Tensor, "b n"]:
        """x on the model's device and in its dtype, or InputError with what was got and what is wanted."""
        x = self._tensor(x, "x")
        if x.dim() != 2 or x.shape[1] != self.n:
            raise InputError(f"x has shape {tuple(x.shape)}; allowed: (b, {self.n}), one vector a row.")
        x = x.to(self.dtype)
        if not x.isfinite().all():
            raise InputError(f"x holds {x[~x.isfinite()][0].item():g}; allowed: finite numbers.")
        return x


def mean_and_scale(data: RealData) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """m and s of eq. (5) from the training rows.

    Raises InputError for a column that is constant, or as good as constant for numbers of seven digits.
    """
    x = data.split("train").double()
    mean, scale = x.mean(0), x.std(0, correction=0)
    flat = (scale <= 1e-6 * x.abs().amax(0)).nonzero()[:, 0].tolist()
    if flat:
        d = flat[0]
        raise InputError(
            f"{data.name}: {data.column(d)} is {x[0, d].item():.7g} in (nearly) all {len(x)} training rows; a density "
            "wants columns that vary: leave it out, or subtract its mean if it does vary."
        )
    return mean.float(), scale.float()


Model = RNADE


class Method(MaximumLikelihood):
    """min over θ of the mean of −log p_θ(x), eq. (5), over the training vectors."""

    Config, Model = Config, RNADE
    steps = 2_000

    def __init__(self, config: Any, data: Any, seed: int, hardware: Any, steps: int):
        mean, scale = mean_and_scale(data)
        super().__init__(config, data, seed, hardware, steps)
        for model in (self.model, self.averaged):
            model.standardise(mean, scale)

    @staticmethod
    def open_data(spec: Any, size: int | None, threshold: float, skip_unreadable: bool = False) -> RealData:
        return load(spec)

    def card(self) -> str:
        return super().card().replace("binary vectors", "real vectors", 1)
