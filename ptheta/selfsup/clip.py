r"""CLIP: a picture and its text are to be each other's nearest among all pictures and texts of a batch.

A. Radford, J. W. Kim, C. Hallacy, A. Ramesh, G. Goh, S. Agarwal, G. Sastry, A. Askell, P. Mishkin, J. Clark, G. Krueger
and I. Sutskever, "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.

f is the encoder of pictures, e that of texts (see `text.py`). Both are mapped into one space and to length 1,

    u = W_i f(x) / ‖W_i f(x)‖,        v = W_t e(t) / ‖W_t e(t)‖                                (1)

and over the N pairs of a batch

    s_{ij} = \exp(λ) u_i · v_j,        \exp(λ) ≤ 100                                          (2)

    p_{ij} = \exp s_{ij} / \sum_k \exp s_{ik},        q_{ij} = \exp s_{ij} / \sum_k \exp s_{kj}

    L = −\frac{1}{2N} \sum_i \frac{1}{|A_i|} \sum_{j ∈ A_i} (\log p_{ij} + \log q_{ji}),    A_i = \{j : t_j = t_i\}  (3)

where λ is learned; where everything is mapped to one vector, L = \ln N. Where all texts of a batch differ, A_i = {i},
and (3) is the paper's; a text that comes twice is right for both of its pictures (J. Yang et al., "Unified Contrastive
Learning in Image-Text-Label Space", CVPR 2022). A class is then a text: with w_c the mean of
the v of what is said of class c in several ways, brought to length 1,

    p(c | x) = softmax_c( \exp(λ) u · w_c )                                                   (4)

without an example of it having been named a class (zero-shot).

Recall at k asks whether the right text is among the k that are nearest to a picture out of a split, or the right
picture among those nearest to a text; the figure is the mean of both ways. Where texts are alike, each is right. Of a
picture with several texts training draws one each time, and the first is asked for.

| symbol | shape | here |
|---|---|---|
| x, t | (N, C, H, W), (N, l) | pictures, and the tokens of their texts |
| u, v | (N, d) | of all processes together |
| W_i, W_t | (d, f), (d, w) | `W_i`, `W_t` |
| λ | () | `log_scale`, at first −\log `temperature` |

Differs from the paper: small encoders with weights drawn at random; one colour change and a wide crop beside the
paper's crop; of a text that is a list, parts between commas are left out at random, and shuffled (`drop`);
the vocabulary is learned from the training texts, or texts are bytes.

Expected: see docs/selfsup.md, with the command.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize, pad

from ptheta.data.folders import AGAIN
from ptheta.data.order import minibatches
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.method import Between, Estimate
from ptheta.nets.transformer import normal
from ptheta.selfsup.gather import gathered, gathered_without_gradient
from ptheta.selfsup.pretraining import AT_ONCE, Encoder, Pretraining, PretrainingConfig, need_two
from ptheta.selfsup.text import BYTES, PAD, TextEncoder, Tokenizer, first, learn, varied
from ptheta.selfsup.views import Preset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptheta.data.pictures import PictureData

GREATEST = 100.0  # of exp(λ)
RETRIEVED = 5_000  # pairs of a split among which recall is measured
PROMPTS = ("{}", "a picture of {}", "symbol, {}")

Batch = tuple[UInt8[Tensor, "b c h w"], Int[Tensor, "b l"]]


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Hyperparameters of CLIP and of its training."""

    temperature: Annotated[float, Between(0.01, 100)] = 0.07
    """1/exp(λ) of eq. (2) at the start."""
    project: Annotated[int, Between(1, 2**16)] = 128
    """Dimensions of u and v."""
    vocabulary: Annotated[int, Between(0, 2**16)] = 0
    """Numbers of a byte-pair encoding learned from the training texts (at least 259); 0: texts are bytes."""
    length: Annotated[int, Between(3, 2**12)] = 64
    """Tokens of a text, start and end among them; what is longer is cut."""
    text_width: Annotated[int, Between(1, 4096)] = 128
    """Width of the text encoder."""
    text_depth: Annotated[int, Between(1, 64)] = 2
    """Blocks of the text encoder."""
    drop: Annotated[float, Between(0, 0.99)] = 0.5
    """Share of a text's parts, between commas, that are left out, the others shuffled; 0: texts as they are."""


def clip_loss(
    u: Float[Tensor, "b d"], v: Float[Tensor, "b d"], scale: Float[Tensor, ""] | float, rank: int = 0, world: int = 1,
    alike: Bool[Tensor, "b wb"] | None = None,
) -> Float[Tensor, " b"]:  # fmt: skip
    """The terms of eq. (3) for the b pairs of this process, against those of all; ‖u‖ = ‖v‖ = 1. alike: Which texts of
    all are the same as each of this process; without it all differ."""
    target = torch.arange(len(u), device=u.device) + len(u) * rank
    if alike is not None:
        target = alike.to(u.dtype) / alike.sum(1, keepdim=True)
    every_u, every_v = gathered(u, world), gathered(v, world)
    with torch.autocast(u.device.type, enabled=False):  # in bf16, a cosine would be off by up to 1/256
        of_pictures = cross_entropy(scale * u @ every_v.t(), target, reduction="none")
        of_texts = cross_entropy(scale * v @ every_u.t(), target, reduction="none")
    return (of_pictures + of_texts) / 2


def found(similarity: Float[Tensor, "n m"], right: Bool[Tensor, "n m"], k: int) -> Bool[Tensor, " n"]:
    """Whether a right one is among the k columns that are nearest to each row."""
    return right.gather(1, similarity.topk(min(k, similarity.shape[1]), 1).indices).any(1)


def found_by_chance(right: Bool[Tensor, "n m"], k: int) -> Float[Tensor, " n"]:
    """The probability of that for k columns drawn without replacement."""
    m, count = right.shape[1], right.sum(1).double()
    missed = torch.stack([(m - count - j).clamp(min=0) / (m - j) for j in range(min(k, m))]).prod(0)
    return 1 - missed


def light(p: Preset) -> Preset:
    """Views that leave what a text may speak of: wide crops and colours that change little; no mirrors (left is not
    right), nothing grey, blurred or erased."""
    return dataclasses.replace(
        p, crop=(max(p.crop[0], 0.6), 1.0), flip=0.0, hue=min(p.hue, 0.02), grey=0.0, blur=0.0, erase=0.0, solarise=0.0
    )


class CLIP(Encoder):
    """f, e, eqs. (1) to (4).

    tokenizer: the JSON text of a byte-pair encoding of at most `vocabulary` numbers (see `text.learn`); "": bytes.
    """

    name = "clip"
    least_batch = 2
    tokenizer: Tokenizer

    def __init__(
        self, shape, seed: int = 0, data: str = "", temperature: float = 0.07, project: int = 128, vocabulary: int = 0,
        length: int = 64, text_width: int = 128, text_depth: int = 2, drop: float = 0.5, tokenizer: str = "", **encoder,
    ):  # fmt: skip
        super().__init__()
        self.arguments = {
            "shape": list(shape), "seed": seed, "data": data, "temperature": temperature, "project": project,
            "vocabulary": vocabulary, "length": length, "text_width": text_width, "text_depth": text_depth,
            "drop": drop, "tokenizer": tokenizer, **encoder,
        }  # fmt: skip
        g = self.set_up(shape, seed, data, **encoder)
        self.views, self.drop = light(self.views), drop
        self.texts = TextEncoder(vocabulary or BYTES, length, text_width, text_depth, max(1, text_width // 32), g)
        self.read_by(tokenizer)
        self.W_i = normal(g, project, self.feature_count, std=self.feature_count**-0.5)
        self.W_t = normal(g, project, text_width, std=text_width**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def read_by(self, tokenizer: str) -> None:
        """Take another tokenizer. Raises UsageError where it has more numbers than the text encoder."""
        self.tokenizer, known = Tokenizer(tokenizer), len(self.texts.E)
        if self.tokenizer.size > known:
            raise UsageError(
                f"a tokenizer of {self.tokenizer.size:,} numbers is impossible for vocabulary = {known:,}; allowed: "
                f"at most {known:,}."
            )
        self.arguments["tokenizer"] = tokenizer

    def loss(self, x: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The terms of eq. (3); x is a Batch, pictures and tokens."""
        x, t = x
        need_two(x, self.world, self.name)
        u = self.shared(self.features(self.view(x, step, "view")), self.W_i)
        v = self.shared(self.texts(t), self.W_t)
        scale = self.log_scale.exp()
        longest = pad(t, (0, self.texts.length - t.shape[1]), value=PAD)  # each process has a length of its own
        alike = (longest[:, None] == gathered_without_gradient(longest, self.world)).all(2)
        return clip_loss(u, v, scale, self.rank, self.world, alike), {"scale": scale, "alike": (u * v).sum(1).mean()}

    @torch.no_grad()
    def after_update(self, step: int, total: int) -> None:
        """The bound of eq. (2)."""
        self.log_scale.clamp_(max=math.log(GREATEST))

    def shared(self, z: Float[Tensor, "b f"], W: Float[Tensor, "d f"]) -> Float[Tensor, "b d"]:
        """Eq. (1), of features of pictures or texts."""
        return normalize(linear(z.to(W.dtype), W).float())

    def tokens(self, texts: list[str]) -> Int[Tensor, "b l"]:
        """The tokens of texts in lower case, on the model's device."""
        return self.tokenizer.tokens([text.strip().lower() for text in texts], self.texts.length).to(self.mean.device)

    # ------------------------------------------------------------ for users

    @torch.no_grad()
    def image(self, x: Any) -> Float[Tensor, "b d"]:
        """u of pictures (b, C, H, W). Raises InputError for another shape or other values."""
        return self.shared(self.embed(x), self.W_i)

    @torch.no_grad()
    def text(self, texts: list[str]) -> Float[Tensor, "b d"]:
        """v of texts. Raises InputError for what is no list of texts."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError(f'texts are {texts!r:.60}; allowed: a list of texts, ["a cat"].')
        parts = [self.texts(self.tokens(texts[i : i + AT_ONCE])) for i in range(0, max(1, len(texts)), AT_ONCE)]
        return self.shared(torch.cat(parts), self.W_t)

    def classes(self, names: list[str]) -> Float[Tensor, "P d"]:
        """w of eq. (4): each name with spaces for hyphens and underscores, said in the ways of PROMPTS."""
        plain = [name.replace("-", " ").replace("_", " ") for name in names]
        return normalize(torch.stack([self.text([p.format(name) for name in plain]) for p in PROMPTS]).mean(0))

    @torch.no_grad()
    def zero_shot(self, x: Any, prompts: list[str]) -> Float[Tensor, "b P"]:
        """Eq. (4) with one text for each class. Raises InputError for bad pictures and where there are no prompts."""
        if not len(prompts):
            raise InputError("prompts are empty; allowed: a list of at least one text.")
        return (self.log_scale.exp() * self.image(x) @ self.text(prompts).t()).softmax(1)

    def retrieve(self, x: Any, texts: list[str], k: int = 5) -> Int[Tensor, "b k"]:
        """For each picture the rows of the k nearest texts, nearest first. Raises UsageError for an impossible k."""
        if not 1 <= k <= len(texts):
            raise UsageError(f"k = {k} is impossible; allowed: 1 to {len(texts)}, the number of texts.")
        return (self.image(x) @ self.text(texts).t()).topk(k, 1).indices


Model = CLIP


class Method(Pretraining):
    """min over θ of the mean of L, eq. (3)."""

    Config, Model = Config, CLIP
    default_data = "emoji"
    steps = 3_000

    def __init__(self, config: Any, data: PictureData, seed: int, hardware: Any, steps: int):
        self.texts = captions(data, "train")
        tokenizer = learn([t.lower() for text in self.texts for t in text.split(AGAIN)], config.vocabulary)
        super().__init__(config, data, seed, hardware, steps)
        self.model.read_by(tokenizer)

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        """Pictures and the tokens of their texts."""
        order = minibatches(len(self.x), self.config.batch_size, self.seed, start, rank, world)
        for step, rows in enumerate(order, start):
            texts = varied([self.texts[i] for i in rows.tolist()], self.model.drop, self.seed, step, rank, world)
            yield self.x[rows.to(self.x.device)], self.model.tokens(texts)

    def held_out(self, data: PictureData, split: str, i: int, size: int) -> Batch:
        texts = first(captions(data, split)[i * size : (i + 1) * size])
        return super().held_out(data, split, i, size), self.model.tokens(texts)

    @torch.no_grad()
    def evaluate(self, data: PictureData, split: str, limit: int | None = None) -> dict[str, Estimate]:
        """Beside the room's figures: r1, r5, recall among the pairs of the split (the first 5,000), r5_chance, and
        zero_shot, zero_shot_macro where there are classes: accuracy, and the mean over classes of their recalls."""
        figures = super().evaluate(data, split, limit)
        model = copy.deepcopy(self.model).eval()
        x, texts = data.split(split)[:limit][:RETRIEVED], first(captions(data, split)[:limit][:RETRIEVED])
        u, v = model.image(x), model.text(texts)
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        of = torch.tensor([number[text] for text in texts], device=u.device)
        similarity, right = u @ v.t(), of[:, None] == of
        for k in (1, 5):
            both = found(similarity, right, k).double() + found(similarity.t(), right, k).double()
            figures[f"r{k}"] = Estimate.of(both.cpu() / 2)
        figures["r5_chance"] = Estimate(found_by_chance(right, 5).mean().item(), math.nan, len(x))
        y = data.labels(split)
        if y is not None and data.classes:
            hit = ((u @ model.classes(list(data.classes)).t()).argmax(1).cpu() == y[: len(x)]).double()
            figures["zero_shot"], figures["zero_shot_macro"] = Estimate.of(hit), macro(hit, y[: len(x)])
        return figures

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "tokenizer": self.model.arguments["tokenizer"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.model.read_by(state["tokenizer"])

    def start_from(self, model: Any) -> None:
        """Another CLIP's text encoder comes with its tokenizer, where it fits."""
        super().start_from(model)
        same = isinstance(model, CLIP) and model.texts.E.shape == self.model.texts.E.shape
        if same:
            self.model.read_by(model.arguments["tokenizer"])

    def pictures(self) -> dict[str, Figure]:
        held = "valid" if "valid" in self.data.splits else "train"
        x, texts = self.data.split(held)[:RETRIEVED], first(captions(self.data, held)[:RETRIEVED])
        return {**super().pictures(), "texts": told(copy.deepcopy(self.model).eval(), x, texts)}


def captions(data: PictureData, split: str) -> list[str]:
    """The texts of a split, or InputError where the data set has none."""
    texts = data.captions(split)
    if texts is None:
        raise InputError(
            f"{data.name} has no captions, which clip learns from; use --data emoji, or a folder of pictures with a "
            "captions.csv or captions.jsonl (columns file and caption)."
        )
    return texts


def macro(hit: Float[Tensor, " n"], y: Int[Tensor, " n"]) -> Estimate:
    """The mean over the classes that there are of the mean of their hits, each class counting alike."""
    of = [Estimate.of(hit[y == c]) for c in y.unique().tolist()]
    squares = [0.0 if math.isnan(e.standard_error) else e.standard_error**2 for e in of]
    return Estimate(sum(e.mean for e in of) / len(of), math.sqrt(sum(squares)) / len(of), len(hit))


def told(model: CLIP, x: UInt8[Tensor, "n c h w"], texts: list[str], rows: int = 6, each: int = 6) -> Figure:
    """Each row: a text, and the pictures nearest to it."""
    from matplotlib.figure import Figure

    from ptheta.selfsup.pictures import shown

    asked = texts[:: max(1, len(texts) // rows)][:rows]
    near = (model.text(asked) @ model.image(x).t()).topk(min(each, len(x)), 1).indices
    figure = Figure(figsize=(3.0 + 0.9 * each, 0.95 * len(asked)))
    grid = figure.add_gridspec(len(asked), each + 3)
    for r, text in enumerate(asked):
        axes = figure.add_subplot(grid[r, :3])
        axes.text(1, 0.5, text if len(text) < 40 else text[:37] + "…", ha="right", va="center", fontsize=8, wrap=True)
        axes.axis("off")
        for c, i in enumerate(near[r].tolist()):
            axes = figure.add_subplot(grid[r, 3 + c])
            axes.imshow(shown(x[i]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.axis("off")
    return figure
