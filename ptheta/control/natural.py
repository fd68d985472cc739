r"""The natural gradient without the Fisher matrix: products with it, and conjugate gradients.

S. Amari, "Natural Gradient Works Efficiently in Learning", Neural Computation 10, 1998.
J. Schulman, S. Levine, P. Moritz, M. Jordan and P. Abbeel, "Trust Region Policy Optimization", ICML 2015, appendix C.
J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, 2006, algorithm 5.2.

The mean KL divergence from the old policy to one with the parameters θ is, to second order around θ_old,

    KL(θ) = (θ − θ_old)^T F (θ − θ_old) / 2,      F = \mathbb E [ ∇\log π ∇\log π^T ]                             (1)

its value and gradient there being zero. So a product with F is the gradient of a gradient,

    F v = ∇ ( v^T ∇ KL(θ) )   at θ_old                                                                          (2)

and F^{-1} g is found by conjugate gradients on x^T (F + c I) x / 2 − g^T x, from x = 0, each step of which needs one
product; c is the damping, which is added once. The longest step along x that (1) allows for KL ≤ δ is

    β = \sqrt{ 2 δ / (x^T (F + c I) x) }                                                                         (3)

With the Jacobian J of a policy's network, and the information M of the distribution whose numbers it says (`policies`),

    F v = \mathbb E [ J^T M J v ]                                                                                (4)

is v pushed forward through the layers, times M, and pulled back: what (2) comes to, in fewer operations.

| symbol | shape | here |
|---|---|---|
| θ, v, g, x | (n,) | all parameters, one after another: `flat` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ptheta.control.policies import Categorical, Gaussian
from ptheta.engine.errors import InputError
from ptheta.nets.mlp import MLP, Pass

Product = Callable[[Tensor], Tensor]


def flat(tensors: Iterable[Tensor]) -> Float[Tensor, " n"]:
    """One vector of all of them."""
    return torch.cat([x.reshape(-1) for x in tensors])


@torch.no_grad()
def put(parameters: Sequence[Tensor], theta: Float[Tensor, " n"]) -> None:
    """θ into the parameters, in place."""
    parts = theta.split([p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.copy_(part.view_as(p))


def gradient(
    y: Tensor, parameters: Sequence[Tensor], create_graph: bool = False, retain_graph: bool = False
) -> Float[Tensor, " n"]:
    """∇y, with zeros for parameters that y does not depend on; with a graph of its own, or leaving y's, if asked."""
    found = torch.autograd.grad(
        y, parameters, retain_graph=retain_graph or create_graph, create_graph=create_graph, allow_unused=True
    )
    return flat(torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True))


def fisher_product(kl: Tensor, parameters: Sequence[Tensor], damping: float = 0.0) -> Product:
    """v → (F + c I) v by eq. (2), of the mean KL divergence from a policy to itself (the old one without gradient), as
    long as its parameters are what they are."""
    first = gradient(kl, parameters, create_graph=True)

    def product(v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        if not first.requires_grad:  # KL does not depend on the parameters, or only linearly
            return damping * v
        return gradient(first @ v, parameters, retain_graph=True) + damping * v

    return product


def fisher(policy: Categorical | Gaussian, s: Tensor, damping: float = 0.0) -> Product:
    """v → (F + c I) v of a policy at s, as long as its parameters are what they are: by eq. (4) where its network is an
    MLP, by eq. (2) elsewhere."""
    parameters, net = list(policy.parameters()), policy.net
    if not isinstance(net, MLP):
        given = policy.given(s)
        return fisher_product(policy.kl(tuple(x.detach() for x in given), given).mean(), parameters, damping)
    W, b = net.layers
    done = Pass(W, b, net.activation, s)
    own, M = policy.information(done.y)
    sizes, k = [p.numel() for p in W + b], len(own)

    def product(v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        parts = [part.view_as(p) for part, p in zip(v[k:].split(sizes), W + b)]
        dW, db = done.pull(M(done.push(parts[: len(W)], parts[len(W) :])) / len(s))
        return torch.cat([own * v[:k], *(x.reshape(-1) for x in dW + db)]).add_(v, alpha=damping)

    return product


def conjugate_gradient(
    product: Product, g: Float[Tensor, " n"], iterations: int = 10, tolerance: float = 1e-10
) -> Float[Tensor, " n"]:
    """x with A x = g, for a symmetric A with v^T A v > 0 that is known by its products; it stops early where the
    squared residual is at most the tolerance's share of |g|². A g whose square is no number of its type is of rounding
    alone, as that of a policy that is all but certain: x = 0. Raises InputError for products that are not finite, or an
    A that curves downwards."""
    x, scale = torch.zeros_like(g), g.abs().max()
    if g @ g == 0:
        return x
    direction = residual = g / scale  # residuals of a short g would have squares of 0 before they are small
    start = squared = residual @ residual
    for _ in range(iterations):
        if squared <= tolerance * start:
            break
        Ad = product(direction)
        curvature = direction @ Ad
        if not torch.isfinite(curvature) or curvature <= 0:
            raise InputError(
                f"the curvature along a step is {curvature.item():g}; wanted: above 0. The policy's divergence has no "
                "minimum here: its outputs may be infinite, or the damping too small."
            )
        length = squared / curvature
        x = x + length * direction
        residual = residual - length * Ad
        before, squared = squared, residual @ residual
        direction = residual + squared / before * direction
    return scale * x


def longest(product: Product, x: Float[Tensor, " n"], delta: float) -> Tensor:
    """β of eq. (3); 0 for a step that leads nowhere."""
    curvature = x @ product(x)
    return (2 * delta / curvature.clamp(min=1e-300)).sqrt() if curvature > 0 else torch.zeros_like(curvature)
