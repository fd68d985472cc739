r"""Baselines: the classic models of binary vectors, which a fair table shows beside the networks.

Independent Bernoullis, with α counts of either value added (Laplace 1774); N_d of the N vectors have x_d = 1:

    p(x) = \prod_d θ_d^{x_d} (1 - θ_d)^{1 - x_d},     θ_d = (N_d + α) / (N + 2α)                        (1)

Mixture of K such products (Bishop 2006, section 9.3.3), by EM (Dempster, Laird and Rubin 1977):

    p(x) = \sum_k π_k p_k(x),     p_k(x) = \prod_d μ_{kd}^{x_d} (1 - μ_{kd})^{1 - x_d}                  (2)
    r_{ik} = π_k p_k(x_i) / p(x_i),     N_k = \sum_i r_{ik}                                      (3, E step)
    π_k = (N_k + α) / (N + Kα),     μ_k = (\sum_i r_{ik} x_i + α) / (N_k + 2α)                   (4, M step)

The added counts are Dirichlet and Beta priors whose mode (4) seeks, so that no probability becomes 0 or 1, and

    L = \sum_i \log p(x_i) + α \sum_k [ \log π_k + \sum_d \log μ_{kd} (1 - μ_{kd}) ]                    (5)

never falls. EM starts at π_k = 1/K and, with a training vector x_{i(k)} and uniform numbers u that tell equal vectors
apart, at μ_k = x_{i(k)}/2 + \bar x/4 + u_k/4, and stops when L/N gains less than a tolerance.

Chow–Liu tree (Chow and Liu 1968). Of all distributions in which each variable has one parent, the root none,

    p(x) = \prod_d p(x_d | x_{parent(d)}),                                                              (6)

the one of least KL(p̃ ‖ p) has the conditionals of p̃ along the edges of the spanning tree of greatest total

    I_{de} = \sum_{ab} p̃_{de}(a, b) \log [ p̃_{de}(a, b) / (p̃_d(a) p̃_e(b)) ]                          (7)

(Prim 1957: grow the tree by its heaviest edge to the outside), and E_p̃[log p] = \sum_{edges} I - \sum_d H(p̃_d). Here
p̃ is the data with α counts added to the four cells of every pair, as by 4α vectors spread evenly over {0,1}^n:

    p̃_{de}(a, b) = (N_{de}(a, b) + α) / (N + 4α)                                                       (8)

Kernel density (Aitchison and Aitken 1976), 1/2 ≤ λ < 1. With c_h(x) training vectors at Hamming distance h from x,

    p(x) = \frac{1}{N} \sum_i \prod_d λ^{[x_d = x_{id}]} (1 - λ)^{[x_d ≠ x_{id}]}
         = \frac{1}{N} \sum_h c_h(x) λ^{n-h} (1 - λ)^h,                                                 (9)

so that c gives the density for every λ. λ maximises the likelihood of validation vectors, or that of each training
vector under the others (one less in c_0). Not parametric: it keeps its N vectors, and every density costs O(N·n).

| symbol | shape | here |
|---|---|---|
| x | (N, n), (b, n) | training vectors, vectors asked about; kept as bytes |
| π, μ | (K,), (K, n) | weights and means of the mixture |
| N_{de}(a, b), I | (2, 2, n, n), (n, n) | pair counts, by one matrix product; mutual informations, nats |
| table | (n, 2, 2) | log p(x_d = b \| x_parent = a); the root is its own parent and ignores it |
| c | (b, n + 1) | how many training vectors lie at each distance |

Differs from the papers: the added counts, and the start of EM; λ is at most 1 - 1/(Nn + 2), so that nothing has
probability 0. The α of a mixture (0.1) and of a tree (0.01) suit the validation data of the DEBD sets together.

Expected: test log p of Chow–Liu trees -6.759 on nltcs and -16.524 on plants, the published figures, with any α from 0
to 5: they do not tell which one was used. `ptheta baselines --data debd:plants`
"""

from __future__ import annotations

import json as json_module
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import tyro
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ptheta.data.order import generator
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.method import Estimate

COMPONENTS = (5, 10, 20, 50, 100)  # values of K that the command tries
MOST_ASKED = 10_000  # vectors by which λ is chosen: one number needs no more
BLOCK = 2**20  # numbers in the rows of one step: more no longer fit the cache


class Baseline:
    """What all models of this file can do. Each has a `fit`, `log_p` (b, n) -> (b,) of a few vectors, and `draw`: a
    vector for each row of uniform numbers u (b, n) and v (b,), of which v chooses a component, u the variables."""

    name: ClassVar[str]
    n: int
    parameters: int
    chosen: dict[str, float] = {}  # size or width, for the table
    log_p: Callable[[Tensor], Tensor]
    draw: Callable[[Tensor, Tensor], Tensor]

    def log_prob(self, x: Any, chunk: int = 1000) -> Float[Tensor, " b"]:
        """log p(x) in nats, float64. Raises InputError if x is not (b, n) of 0/1."""
        parts = [self.log_p(rows) for rows in vectors(x, self.n).split(chunk)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def sample(self, count: int, seed: int = 0, chunk: int = 1000) -> Float[Tensor, "count n"]:
        """`count` independent draws from p(x). The first of a larger count are those of a smaller one."""
        allow("count", count, count >= 1, "at least 1")
        parts = []
        for i in range(-(-count // chunk)):
            u = torch.rand(chunk, self.n + 1, generator=generator(seed, i, "sample"), dtype=torch.float64)
            parts.append(self.draw(u[:, 1:], u[:, 0].contiguous()).float())
        return torch.cat(parts)[:count]


def vectors(x: Any, n: int | None = None) -> UInt8[Tensor, "b n"]:
    """x as bytes, or InputError; without n it is training data, which needs a row and a column."""
    try:
        x = torch.as_tensor(x).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"x is no array of numbers ({error}); allowed: (b, n), one vector a row.") from error
    if x.dim() != 2 or (x.numel() == 0 if n is None else x.shape[1] != n):
        allowed = "(N, n), at least one row and one column" if n is None else f"(b, {n}), one vector a row"
        raise InputError(f"x has shape {tuple(x.shape)}; allowed: {allowed}.")
    wrong = (x != 0) & (x != 1)
    if wrong.any():
        raise InputError(f"x holds {x[wrong][0].item():g}; allowed: 0 and 1 (binarise it first).")
    return x.to(torch.uint8)


def allow(name: str, value: float, fine: bool, allowed: str) -> None:
    """UsageError for a value that is not fine."""
    if not fine:
        raise UsageError(f"{name} = {value} is impossible; allowed: {allowed}.")


class Mixture(Baseline):
    """Eq. (2): K products of Bernoullis. `history` has L/N of eq. (5) at every E step of its fit."""

    name = "mixture"

    def __init__(self, pi: Float[Tensor, " K"], mu: Float[Tensor, "K n"]):
        self.pi, self.mu, self.n = pi, mu, mu.shape[1]
        self.parameters = len(mu) - 1 + mu.numel()
        self.logits, self.constant = mu.logit(), pi.log() + (1 - mu).log().sum(1)  # (K, n), (K,)
        self.history: list[float] = []

    @classmethod
    def fit(
        cls, x: Any, K: int = 50, smoothing: float = 0.1, tolerance: float = 1e-4, most: int = 1000, seed: int = 0
    ) -> Mixture:
        """EM on x, (N, n) of 0/1, until L/N gains less than `tolerance` nats or `most` M steps are made. `smoothing`
        is α, above 0. Raises InputError for other data, UsageError for other values."""
        x = vectors(x)
        N = len(x)
        allow("components", K, 1 <= K <= N, f"from 1 to the {N:,} training vectors")
        allow("smoothing", smoothing, 0 < smoothing < math.inf, "above 0 and finite")
        allow("tolerance", tolerance, 0 <= tolerance < math.inf, "at least 0 and finite")
        model, history = cls.start(x, K, seed), []
        while True:
            N_k, sums, log_p = model.expectations(x)
            prior = model.pi.log().sum() + (model.mu * (1 - model.mu)).log().sum()
            history.append((log_p + smoothing * prior.item()) / N)  # eq. (5)
            if len(history) > most or (len(history) > 1 and history[-1] - history[-2] < tolerance):
                break
            model = cls((N_k + smoothing) / (N + K * smoothing), (sums + smoothing) / (N_k[:, None] + 2 * smoothing))
        model.history, model.chosen = history, {"K": K}
        return model

    @staticmethod
    def choose(x: Any, valid: Any, Ks: Sequence[int], **how: Any) -> Mixture:
        """The fit, among those with each K of `Ks`, under which the validation vectors are likeliest."""
        return max((Mixture.fit(x, K, **how) for K in Ks), key=lambda model: model.log_prob(valid).mean().item())

    @classmethod
    def start(cls, x: UInt8[Tensor, "N n"], K: int, seed: int) -> Mixture:
        """Where EM starts: K training vectors, each half effaced."""
        g = generator(seed, 0, "mixture")
        chosen = x[torch.randperm(len(x), generator=g)[:K]].double()
        u = 0.1 + 0.8 * torch.rand(chosen.shape, generator=g, dtype=torch.float64)  # keeps μ off 0 and 1
        mean = x.sum(0, dtype=torch.float64) / len(x)
        return cls(torch.full((K,), 1 / K, dtype=torch.float64), chosen / 2 + mean / 4 + u / 4)

    def joint(self, x: UInt8[Tensor, "b n"]) -> Float[Tensor, "b K"]:
        """log π_k p_k(x)."""
        return torch.addmm(self.constant, x.double(), self.logits.t())

    def expectations(self, x: UInt8[Tensor, "N n"]) -> tuple[Float[Tensor, " K"], Float[Tensor, "K n"], float]:
        r"""N_k of eq. (3), \sum_i r_{ik} x_i, and \sum_i \log p(x_i)."""
        N_k, sums, log_p = torch.zeros_like(self.pi), torch.zeros_like(self.mu), 0.0
        for rows in x.split(max(1, BLOCK // max(self.mu.shape))):
            r = self.joint(rows)
            top = r.amax(1, keepdim=True)
            r.sub_(top).exp_()  # one exponential serves both r and log p
            total = r.sum(1, keepdim=True)
            log_p += (top + total.log()).sum().item()
            r /= total
            N_k += r.sum(0)
            sums.addmm_(r.t(), rows.double())
        return N_k, sums, log_p

    def log_p(self, x: UInt8[Tensor, "b n"]) -> Float[Tensor, " b"]:
        return self.joint(x).logsumexp(1)

    def draw(self, u: Float[Tensor, "b n"], v: Float[Tensor, " b"]) -> Tensor:
        k = torch.searchsorted(self.pi.cumsum(0), v, right=True).clamp(max=len(self.pi) - 1)
        return u < self.mu[k]


class Bernoulli(Mixture):
    """Eq. (1), which is eq. (2) with K = 1."""

    name = "bernoulli"

    @classmethod
    def fit(cls, x: Any, smoothing: float = 1.0) -> Bernoulli:
        """θ of x, (N, n) of 0/1; `smoothing` is α, above 0. Raises InputError, UsageError."""
        x = vectors(x)
        allow("smoothing", smoothing, 0 < smoothing < math.inf, "above 0 and finite")
        theta = (x.sum(0, dtype=torch.float64) + smoothing) / (len(x) + 2 * smoothing)
        return cls(torch.ones(1, dtype=torch.float64), theta[None])


class ChowLiu(Baseline):
    """Eq. (6). `parent` (n,) has the root as its own parent; `order` (n,) has parents before their children."""

    name = "chow-liu"

    def __init__(self, parent: Int[Tensor, " n"], order: Int[Tensor, " n"], table: Float[Tensor, "n 2 2"]):
        self.parent, self.order, self.table = parent, order, table
        self.n, self.parameters = len(parent), 2 * len(parent) - 1

    @classmethod
    def fit(cls, x: Any, smoothing: float = 0.01) -> ChowLiu:
        """The tree nearest to p̃ of x, (N, n) of 0/1; `smoothing` is α. With 0 it is the tree of greatest likelihood,
        and some vectors may have probability 0. Raises InputError, UsageError."""
        x = vectors(x)
        allow("smoothing", smoothing, 0 <= smoothing < math.inf, "at least 0 and finite")
        p = (pair_counts(x) + smoothing) / (len(x) + 4 * smoothing)  # eq. (8)
        parent, order = spanning_tree(mutual_information(p))
        joint = p[:, :, parent, torch.arange(len(parent))].permute(2, 0, 1)  # (n, parent's value, own value)
        table = (joint / joint.sum(2, keepdim=True)).nan_to_num(0.5)  # where the parent's value has probability 0
        table[0] = joint[0].sum(0)  # the root, whose pair is with itself
        return cls(parent, order, table.log())

    def log_p(self, x: UInt8[Tensor, "b n"]) -> Float[Tensor, " b"]:
        cell = 2 * x[:, self.parent].long() + x
        return self.table.view(self.n, 4)[torch.arange(self.n), cell].sum(1)

    def draw(self, u: Float[Tensor, "b n"], v: Float[Tensor, " b"]) -> Tensor:
        p_one, x = self.table[:, :, 1].exp(), torch.zeros(u.shape, dtype=torch.long)
        for d in self.order.tolist():
            x[:, d] = u[:, d] < p_one[d, x[:, self.parent[d]]]
        return x


def pair_counts(x: UInt8[Tensor, "N n"]) -> Float[Tensor, "2 2 n n"]:
    """N_{de}(a, b) of eq. (8) at [a, b, d, e]: the product x^T x counts (1, 1), and the other three follow."""
    n = x.shape[1]
    both = torch.zeros(n, n, dtype=torch.float64)
    for rows in x.split(max(1, BLOCK // n)):
        both.addmm_(rows.t().double(), rows.double())
    ones = both.diagonal()
    d_alone, e_alone = ones[:, None] - both, ones - both
    return torch.stack([torch.stack([len(x) - ones[:, None] - e_alone, e_alone]), torch.stack([d_alone, both])])


def mutual_information(p: Float[Tensor, "2 2 n n"]) -> Float[Tensor, "n n"]:
    """Eq. (7) of every pair, from the pairs' distributions; 0 log 0 = 0. The diagonal is of no use."""
    p_d, p_e = p.sum(1, keepdim=True), p.sum(0, keepdim=True)
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, p_d) - torch.special.xlogy(p, p_e)).sum((0, 1))


def spanning_tree(weight: Float[Tensor, "n n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """A maximum spanning tree by Prim's algorithm in O(n²): parents (the root, variable 0, is its own) and the order
    in which the variables joined. Among equal edges the first wins."""
    n = len(weight)
    parent, heaviest = torch.zeros(n, dtype=torch.long), torch.full((n,), -math.inf, dtype=weight.dtype)
    outside, order, d = torch.ones(n, dtype=torch.bool), [0], 0
    for _ in range(n - 1):
        outside[d] = False
        better = outside & (weight[d] > heaviest)
        heaviest[better], parent[better] = weight[d, better], d
        d = int(torch.where(outside, heaviest, -math.inf).argmax())
        order.append(d)
    return parent, torch.tensor(order)


class Kernel(Baseline):
    """Eq. (9). It keeps its training vectors: a density costs O(N·n), and memory is N·n bytes."""

    name = "kernel"
    parameters = 1  # λ; the N·n bits that are kept are not counted

    def __init__(self, x: UInt8[Tensor, "N n"], lam: float):
        self.x, self.lam, self.n, self.chosen = x, lam, x.shape[1], {"lambda": lam}

    @classmethod
    def fit(cls, x: Any, valid: Any = None, lam: float | None = None, seed: int = 0) -> Kernel:
        """Keep x, (N, n) of 0/1, and choose λ: the given `lam`, or the one under which the `valid` vectors are
        likeliest, or without them the training vectors, each under the others; at most 10,000 of them, drawn by
        `seed`. Raises InputError, UsageError."""
        x = vectors(x)
        if lam is not None:
            allow("lam", lam, 0.5 <= lam < 1, "from 0.5 to below 1")
            return cls(x, lam)
        asked, least = (x, 2) if valid is None else (vectors(valid, x.shape[1]), 1)
        allow("number of vectors that choose λ", len(asked), len(asked) >= least, f"at least {least} (or give lam)")
        asked = asked[torch.randperm(len(asked), generator=generator(seed, 0, "kernel"))[:MOST_ASKED]]
        c = distances(asked, x)
        if valid is None:
            c[:, 0] -= 1  # each vector is left out of its own density
        return cls(x, best_lam(c, 1 - 1 / (x.numel() + 2)))

    def log_p(self, x: UInt8[Tensor, "b n"]) -> Float[Tensor, " b"]:
        return kernel_density(distances(x, self.x), torch.tensor([self.lam], dtype=torch.float64))[:, 0]

    def draw(self, u: Float[Tensor, "b n"], v: Float[Tensor, " b"]) -> Tensor:
        kept = self.x[(v * len(self.x)).long()]
        return torch.where(u < self.lam, kept, 1 - kept)


def distances(x: UInt8[Tensor, "b n"], centres: UInt8[Tensor, "N n"]) -> Float[Tensor, "b n+1"]:
    """c of eq. (9). A distance is |x| + |x_i| - 2 x·x_i, all whole numbers, which float32 holds exactly."""
    N, n = centres.shape
    y, parts = centres.float(), []
    for rows in x.split(max(1, 4 * BLOCK // N)):
        rows = rows.float()
        h = torch.addmm(y.sum(1) + rows.sum(1, keepdim=True), rows, y.t(), alpha=-2).long()  # (b, N)
        cell = h.add_(torch.arange(len(rows))[:, None] * (n + 1)).view(-1)
        parts.append(torch.bincount(cell, minlength=len(rows) * (n + 1)).view(-1, n + 1).double())
    return torch.cat(parts)


def kernel_density(c: Float[Tensor, "b n+1"], lam: Float[Tensor, " m"]) -> Float[Tensor, "b m"]:
    r"""log p(x) of eq. (9) for each λ. Distances count from the nearest vector's, h, whose term cannot vanish:
    \log p = (n - h) \log λ + h \log(1 - λ) + \log \sum_j c_{h+j} ((1 - λ)/λ)^j - \log \sum_j c_{h+j}."""
    j = torch.arange(c.shape[1])
    h = (c > 0).byte().argmax(1, keepdim=True)
    beyond = torch.nn.functional.pad(c, (0, 1)).gather(1, (h + j).clamp(max=len(j)))
    powers = ((1 - lam) / lam) ** j[:, None]  # (n + 1, m)
    return (j[-1] - h) * lam.log() + h * (1 - lam).log() + (beyond @ powers).log() - c.sum(1, keepdim=True).log()


def best_lam(c: Float[Tensor, "b n+1"], highest: float) -> float:
    """The λ in [1/2, highest] of greatest mean log p: on a grid even in log-odds, ever finer about its best point."""
    low, high = 0.0, math.log(highest / (1 - highest))
    while True:
        grid = torch.linspace(low, high, 65, dtype=torch.float64)
        best = int(kernel_density(c, grid.sigmoid()).mean(0).argmax())
        if high - low < 1e-6:
            return grid[best].sigmoid().item()
        low, high = grid[max(0, best - 1)].item(), grid[min(64, best + 1)].item()


def baselines(
    data: str = "debd:nltcs", split: str = "test", components: tuple[int, ...] = (), seed: int = 0, json: bool = False
) -> list[dict[str, Any]]:
    """Fit the classic models to the training split of one data set: nats, and the seconds that fits and densities take.

    Args:
        data: As in `ptheta train`.
        split: Where the nats are measured.
        components: Values of K for the mixture, chosen on the validation split; none: 5 10 20 50 100 (without it: 5).
        seed: Of the mixture's start.
        json: Print one JSON object.
    """
    from ptheta.data.binary import load

    observations = load(data)
    train, held = observations.split("train"), observations.split(split)
    valid = observations.split("valid") if "valid" in observations.splits else None
    Ks = components or [K for K in COMPONENTS if len(train) >= K] or [1]
    for K in Ks:
        allow("components", K, 1 <= K <= len(train), f"from 1 to the {len(train):,} training vectors (--components)")
    if valid is None and len(components) > 1:
        raise UsageError(f"{data} has no validation split to choose --components by; give one value of K.")
    fits: list[Callable[[], Baseline]] = [
        lambda: Bernoulli.fit(train),
        lambda: Mixture.fit(train, Ks[0], seed=seed) if valid is None else Mixture.choose(train, valid, Ks, seed=seed),
        lambda: ChowLiu.fit(train),
        lambda: Kernel.fit(train, valid),
    ]
    if not json:
        print(f"{data}, {observations.n} variables, {len(train):,} training vectors, {split} split, seed {seed}")
        print(f"{'':21} {'parameters':>10} {'nats':>9} {'± s.e.':>8} {'s to fit':>9} {'s / 1,000 densities':>20}")
    rows = []
    for fit in fits:
        began = time.perf_counter()
        model = fit()
        fitted = time.perf_counter()
        nats = Estimate.of(-model.log_prob(held))
        each = (time.perf_counter() - fitted) * 1000 / len(held)
        row = {"name": model.name, "chosen": model.chosen, "parameters": model.parameters, "nats": nats.mean,
               "nats_se": nats.standard_error, "seconds": fitted - began, "seconds_per_1000": each}  # fmt: skip
        rows.append({k: v for k, v in row.items() if v == v})  # one vector has no standard error
        if not json:  # each line as soon as it is known: a fit may take minutes
            name = " ".join([model.name, *(f"{k}={v:.6g}" for k, v in model.chosen.items())])
            figures = f"{nats.mean:9.3f} {nats.standard_error:8.3f} {fitted - began:9.2f} {each:20.4f}"
            print(f"{name:21} {model.parameters:>10,} {figures}", flush=True)
    if json:
        print(json_module.dumps({"data": data, "split": split, "seed": seed, "models": rows}))
    return rows


def command(argv: list[str]) -> int:
    """`ptheta baselines [options]`."""
    tyro.cli(baselines, args=argv, prog="ptheta baselines", description=(__doc__ or "").split("\n\n")[0])
    sys.stdout.flush()
    return 0
