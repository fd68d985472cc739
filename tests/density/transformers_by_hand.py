"""Small transformers of every kind, and their equations written out one vector and one token at a time."""

import pytest
import torch
from zoo import everything

from ptheta.data.order import generator
from ptheta.density.transformer import Transformer

X = {
    "natural": {}, "random": {"ordering": "random"}, "any": {"ordering": "any"},
    "any x3": {"ordering": "any", "orderings": 3},
}  # fmt: skip
XY = {
    f"{where} {name}": {**X[name], "label": where, "classes": 3}
    for where in ("first", "last")
    for name in ("natural", "random", "any", "any x3")
}
KINDS = {**X, **XY}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
JOINT = pytest.mark.parametrize("kind", XY)
PICTURES_TOO = pytest.mark.parametrize("shape", [None, (2, 2)])  # of four variables


def build(kind: str, n_x: int, seed: int = 0, dtype=torch.float64, spread: float = 0.5, **more) -> Transformer:
    """A model of n_x variables, and perhaps a label, with every parameter drawn anew; in eval mode."""
    arguments = {"width": 16, "depth": 2, "heads": 2, "seed": seed, **KINDS[kind], **more}
    model, g = Transformer(n_x + arguments.get("classes", 0), **arguments), generator(seed, 0, "build")
    for name, p in model.named_parameters():
        noise = spread * torch.randn(p.shape, generator=g, dtype=torch.float64)
        p.data = (noise + ("norm" in name and "weight" in name)).to(p.dtype)  # the gains of norms about one
    return model.to(dtype).eval()


def all_of(model: Transformer) -> torch.Tensor:
    """Every vector of x, with every class if there is a label."""
    x = everything(model.n_x)
    if not model.classes:
        return x
    y = torch.eye(model.classes, dtype=x.dtype).repeat(len(x), 1)
    x = x.repeat_interleave(model.classes, 0)
    return torch.cat([y, x] if model.label == "first" else [x, y], 1)


def order(model: Transformer, k: int, observed: torch.Tensor | None = None) -> list[int]:
    """o_k; of a model of all orderings, what is observed first."""
    o = model.orders[k].tolist()
    if observed is None or not model.any_order:
        return o
    return sorted(o, key=lambda v: not observed[place(model, v)].all())


def place(model: Transformer, variable: int) -> slice:
    """The columns of a variable; the label is the last variable."""
    if model.classes and variable == model.n_x:
        return slice(0, model.classes) if model.label == "first" else slice(model.n_x, model.n)
    first = variable + (model.classes if model.label == "first" else 0)
    return slice(first, first + 1)


def value(model: Transformer, x: torch.Tensor, variable: int) -> int:
    """The row of E that stands for the value of a variable of one vector."""
    column = x[place(model, variable)]
    return int(column) if variable < model.n_x else 2 + column.tolist().index(1)


@torch.no_grad()
def steps_by_hand(model: Transformer, x: torch.Tensor, o: list[int]) -> list[torch.Tensor]:
    """Probabilities of all values of o(1), o(2), …, each from a pass of its own over the tokens of its past."""
    start, out = torch.stack([model.E[-1] + model.S[-1]]), []
    for t, v in enumerate(o):
        past = [model.E[value(model, x, j)] + model.S[j] for j in o[:t]]
        tokens = torch.cat([start, *(p[None] for p in past)]) + model.A[o[: t + 1]]
        turned = (model.angles[o[: t + 1]], model.angles[[model.m, *o[:t]]]) if model.shape else None
        h = model.blocks(tokens[None], angles=turned)[0, -1]
        if v == model.n_x:
            out.append((model.W_y @ h + model.b[place(model, v)]).softmax(0))
        else:
            p = (model.W_x @ h + model.b[place(model, v)][0]).sigmoid()
            out.append(torch.stack([1 - p, p]))
    return out


def log_p_by_hand(model: Transformer, x: torch.Tensor, o: list[int]) -> float:
    """Eq. (4) of one vector."""
    steps = steps_by_hand(model, x, o)
    return sum(p[value(model, x, v) - 2 * (v == model.n_x)].log().item() for p, v in zip(steps, o, strict=True))
