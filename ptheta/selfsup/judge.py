r"""What features are worth: three questions to an encoder, and the same to the pixels and to an untrained encoder.

    neighbours      the vote of the k nearest training pictures, eq. (1) of `nets/probes.py`
    linear probe    logistic regression on frozen features, eq. (3) there
    fine-tuning     encoder and one linear layer trained together on a share of the labels,

        \min_{θ, W, b}  −\log softmax(W f_θ(t(x)) + b)_y                                                   (1)

with the views t of the pictures' preset, whatever the method itself has seen. What pretraining is worth is the
difference to the untrained encoder, which has the same architecture and is trained in the same way: a figure without it
says more of the architecture than of the method.

The share of labels is drawn with equally many of each class, another one for each seed; the untrained encoder is drawn
anew for each seed too. Learning rates of eq. (1) were chosen on the validation split of Fashion-MNIST; nothing is
chosen on the split that is measured.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from ptheta.data.order import generator, minibatches
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Estimate
from ptheta.nets.probes import linear_probe, nearest_neighbours
from ptheta.selfsup.views import draw, preset, view

BATCH = 100
RATES = {  # of AdamW in eq. (1), by encoder and by what it starts from
    "resnet": {"trained": 1e-3, "untrained": 8e-3},
    "vit": {"trained": 1e-3, "untrained": 1e-3},
}
LEAST = {"resnet": 500, "vit": 1500}  # updates of eq. (1)


def labels_of(data: Any, split: str) -> Int[Tensor, " N"]:
    """The labels of a split, or InputError where the set has none."""
    y = data.labels(split)
    if y is None:
        raise InputError(
            f"{data.name} has no labels to judge features by; name a set that has with --data (a folder whose "
            "sub-folders are classes, mnist, fashion_mnist, digits, emoji)."
        )
    return y


def untrained(model: Any, seed: int) -> Any:
    """The same architecture with weights drawn from the seed, in eval mode."""
    new = type(model)(**{**model.arguments, "seed": seed})
    new.start_at(model.mean, model.deviation)
    return new.eval().to(model.mean.device)


def probe(of: Any, data: Any, split: str, k: int, temperature: float, limit: int | None = None) -> dict[str, Estimate]:
    """Accuracy of neighbours and of the linear probe on a split, from `of`(pictures), (b, f), of at most `limit`
    training pictures. Raises UsageError where there are fewer than k of them."""
    x, y = data.split("train")[:limit], labels_of(data, "train")[:limit]
    enough(k, len(x))
    check = "valid" if "valid" in data.splits else "train"
    train, asked, truth = of(x), of(data.split(split)), labels_of(data, split)
    valid = (of(data.split(check)), labels_of(data, check)) if check != split else (asked, truth)
    guesses = {
        "knn": nearest_neighbours(train, y, asked, k, temperature),
        "probe": linear_probe(train, y, valid if check != split else (train, y), asked),
    }
    return {name: Estimate.of((guess == truth).double()) for name, guess in guesses.items()}


def enough(k: int, count: int) -> None:
    """UsageError where k neighbours are wanted of fewer pictures."""
    if not 1 <= k <= count:
        raise UsageError(f"k = {k} neighbours are wanted of {count:,} pictures; allowed: 1 to {count:,}.")


def pixels(x: Tensor) -> Float[Tensor, "b n"]:
    """The raw pictures as vectors in [0, 1]."""
    return x.flatten(1).float() / 255


def embedding(model: Any) -> Any:
    """A function from pictures to the model's features, on the CPU."""
    return lambda x: model.embed(x).float().cpu()


# ---------------------------------------------------------------- fine-tuning


def some_labels(y: Int[Tensor, " N"], share: float, seed: int) -> Int[Tensor, " n"]:
    """Rows of a share of the pictures, equally many of each class as far as there are; at least one of each."""
    if not 0 < share <= 1:
        raise UsageError(f"share = {share} is impossible; allowed: above 0 and at most 1 (option --shares).")
    classes = int(y.max()) + 1
    count = max(classes, round(share * len(y)))
    shuffled = torch.randperm(len(y), generator=generator(seed, 0, "labels"))
    turn = torch.empty_like(shuffled)  # how many of its class came before each
    for c in range(classes):
        mine = shuffled[y[shuffled] == c]
        turn[mine] = torch.arange(len(mine))
    return shuffled[turn[shuffled].argsort(stable=True)][:count]


def rate_for(model: Any, start: str) -> float:
    """The learning rate of eq. (1) for a "trained" or an "untrained" encoder of the model's kind."""
    return RATES[model.arguments["encoder"]][start]


def updates_for(count: int, encoder: str) -> int:
    """Updates of eq. (1) for so many labelled pictures: forty passes, but 500 at least (1,500 of a ViT, which learns
    more slowly from nothing) and 2,500 at most."""
    return min(2500, max(LEAST[encoder], 40 * count // BATCH))


class Classifier(torch.nn.Module):
    """The encoder of a model and one linear layer on its features, which starts at zero."""

    def __init__(self, model: Any, classes: int):
        super().__init__()
        self.model = copy.deepcopy(model)
        f = model.feature_count
        self.W = torch.nn.Parameter(torch.zeros(classes, f, device=model.mean.device))
        self.b = torch.nn.Parameter(torch.zeros(classes, device=model.mean.device))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits of normalised pictures."""
        return linear(self.model.features(x), self.W, self.b)


def fine_tuned(
    model: Any, x: Tensor, y: Int[Tensor, " n"], classes: int, seed: int, rate: float, hardware: Hardware,
    updates: int | None = None,
) -> Classifier:  # fmt: skip
    """Eq. (1) by AdamW with a half cosine from `rate` to zero, on pictures x (n, C, H, W) and classes y."""
    net = Classifier(model, classes).to(hardware.device).train()
    views = preset("auto", model.arguments["data"], model.shape[0])
    parts = [net.model.encoder, net]
    wanted = {id(p) for part in (parts[0].parameters(), [net.W, net.b]) for p in part}
    learned = [p.requires_grad_() for p in net.parameters() if id(p) in wanted]
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.05, fused=True)
    total = updates or updates_for(len(x), model.arguments["encoder"])
    x, y = x.to(hardware.device), y.to(hardware.device)
    for step, rows in enumerate(minibatches(len(x), BATCH, seed)):
        if step == total:
            return net.eval()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / total))
        rows = rows.to(x.device)
        g = generator(seed, step, "fine-tuning", x.device)
        seen = net.model.normalised(view(x[rows], draw(views, len(rows), g, x.device)))
        with hardware.autocast():
            logits = net(seen).float()
        cross_entropy(logits, y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError("minibatches end never")


@torch.no_grad()
def accuracy(net: Classifier, x: Tensor, y: Int[Tensor, " n"]) -> Estimate:
    """Share of pictures whose class is the likeliest."""
    device = net.W.device
    guess = [net(net.model.normalised(rows.to(device))).argmax(1).cpu() for rows in x.split(500)]
    return Estimate.of((torch.cat(guess) == y).double())


def over_seeds(values: list[float]) -> Estimate:
    """Mean and standard error over seeds; of one seed there is no error."""
    return Estimate.of(torch.tensor(values, dtype=torch.float64))
