r"""SAM: a mask for any prompt, learned from pictures with masks by asking as a person would.

A. Kirillov et al., "Segment Anything", ICCV 2023 (section 3; appendix A, "training algorithm").

For a picture x and one of its masks Y a conversation of up to N turns is held. The first prompt c_1 is, one as likely
as the other, a pixel of the mask or its loose box (`clicks`). Each next one adds a pixel of where the last answer was
wrong, and the answer's logits,

    m^{(i)}, s^{(i)} = \mathrm{decoder}(z, c_1, …, c_i, m^{(i − 1)}_{k^*}),    k^* = \arg\max_k s^{(i − 1)}_k    (1)

but two of them, any and the last, add no pixel: there the logits alone are to be made better. A first prompt may mean
several things and has three answers, which are taught what it may mean (`matching`); from the second on there is one.
With L of `matching`, eq. (2), or of `losses`, eq. (3), and L_s of its eq. (4),

    \min_θ E_{x, Y, c} \sum_{i=1}^n ( L(m^{(i)}, Y) + L_s(s^{(i)}, m^{(i)}, Y) )                                 (2)

(in a batch the mean over all answers) by Muon (`nets/muon`), whose step size η rises over `warmup` updates and falls
linearly, and is η λ^{D + 1 − d} in layer d of the D that the picture encoder has (`layer_decay` λ; patches and places
are layer 0, all that follows D + 1). In training a half of a block (attention, MLP) is left out of a picture with a
probability that rises with depth up to `drop_path`, and else divided by its complement.

| symbol | shape | here |
|---|---|---|
| x | (b, 3, s, s) | pictures in a frame of `size`, in forms of `examples` |
| Y | (b, p, s, s) | `prompts` masks of each |
| z | (b, c, s / 16, s / 16), of `tiny` and `small` s / 8 | the picture encoder's map, made once a conversation |
| m | (b p, 3 or 1, s / 4, s / 4), of `tiny` and `small` s / 2 | learned at half of s |

Differs from the paper: the number of turns n is drawn for each update, log n nearly uniform up to a most that rises
evenly over the training from 1 to N = `interactions`, and from the second turn on the talk is about `continued` of the
p masks. There all N are held from the beginning, as the decoder costs next to nothing beside ViT-H; with the picture
encoder of `tiny` it is the other way round, and a model that finds nothing learns little from a long talk. Three
quarters of the conversations go on not with k^* but with the answer that comes nearest to Y (`conversation`): taught by
k^* alone, which often means something else, a model learns that an earlier answer is not to be relied on, and a second
click undoes what was good. λ of the
focal loss is 5, not 20, for the sake of the first updates; what else they needed, docs/sam.md says. All masks that hold
a click are taught by it, not only the one that was meant, as in Semantic-SAM. Expected IoUs of all three answers are
taught, as SAM 2 does (N. Ravi et al., 2024), but with whatever comes nearest of the masks that hold a click, or a good
answer that was not meant would be called a bad one. The optimiser is Muon, not AdamW, and η falls linearly, not in
steps. layer_decay = 0.8 and drop_path = 0.4 are the paper's, for weights from `mae` and for ViT-H; from scratch `tiny`
has neither.

With `--words` the first prompt is as likely words: W v, with v what the picture encoder of a model of pictures and
texts says of a crop of the mask, one to two times as wide as its box (D.5). Later v may be what its text encoder says.

`--init` takes weights of `sam` (ours, official, Hugging Face's; of any size, `resized`) or the encoder of `mae`.
`--learn` says what is learned of them: all; all but the picture encoder; the mask decoder; or, with the rest as it is,
the mask decoder and W + B A in each attention of the picture encoder (E. Hu et al., "LoRA", ICLR 2022).

Expected: see docs/sam.md, with the command.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ptheta.data import instances
from ptheta.data.order import generator, minibatches
from ptheta.engine import checkpoint
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import Hardware
from ptheta.engine.method import Between, Estimate
from ptheta.engine.method import Config as BaseConfig
from ptheta.engine.pretrained import model_card
from ptheta.nets import low_rank
from ptheta.nets.muon import Muon
from ptheta.sam import examples
from ptheta.sam.conversation import Conversation
from ptheta.sam.model import SAM
from ptheta.sam.resized import resized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETAS, MOMENTUM = (0.9, 0.98), 0.95
OTHERS = 0.15  # of the step size: what vectors have
LEARNED = {  # by `learn`: names of parameters begin with
    "all": ("image_encoder.", "prompt_encoder.", "mask_decoder."),
    "prompts": ("prompt_encoder.", "mask_decoder."),
    "decoder": ("mask_decoder.",),
    "lora": ("mask_decoder.",),
}


@dataclass(frozen=True)
class Config(BaseConfig):
    """Hyperparameters of the model, of the conversations and of the training."""

    variant: Literal["tiny", "small", "vit_b", "vit_l", "vit_h"] = "tiny"
    """The model's sizes; vit_b, vit_l and vit_h need --size 1024."""
    batch_size: Annotated[int, Between(1)] = 4
    """Pictures in a minibatch, over all processes."""
    prompts: Annotated[int, Between(1)] = 12
    """Masks that are asked for of each picture."""
    continued: Annotated[int, Between(1)] = 4
    """How many of these a conversation goes on about after its first turn."""
    interactions: Annotated[int, Between(1, 100)] = 11
    """N, the most turns of a conversation."""
    focal: Annotated[float, Between(0)] = 5.0
    """Weight λ of the focal loss beside Dice."""
    learning_rate: Annotated[float, Between(0, open=True)] = 6e-3
    """Step size of matrices at its highest."""
    warmup: Annotated[int, Between(0)] = 50
    """Updates over which the step size rises from zero."""
    weight_decay: Annotated[float, Between(0)] = 0.01
    """Decoupled weight decay, of matrices alone."""
    layer_decay: Annotated[float, Between(0, 1, open=True)] = 1.0
    """By what each layer of the picture encoder is slower than the one above."""
    drop_path: Annotated[float, Between(0, 0.9)] = 0.0
    """Greatest share of pictures that a half of a block is left out for."""
    learn: Literal["all", "prompts", "decoder", "lora"] = "all"
    """What is learned: all; prompt encoder and mask decoder; mask decoder; mask decoder and low-rank additions."""
    rank: Annotated[int, Between(1, 256)] = 8
    """Rank of B A for `--learn lora`."""
    least_scale: Annotated[float, Between(0.1, 1)] = 0.8
    """Least scale of pictures in training."""
    greatest_scale: Annotated[float, Between(1, 10)] = 1.25
    """Greatest scale of pictures in training."""
    flip: Annotated[float, Between(0, 1)] = 0.5
    """Share of pictures that are mirrored in training."""
    colour: Annotated[float, Between(0, 1)] = 0.3
    """Brightness, contrast and saturation change by factors from 1 − colour to 1 + colour."""
    words: str = ""
    """A run or model folder of clip: prompts may be words, too, learned by what it says of crops around masks."""


class Method:
    """min over θ of eq. (2)."""

    Config, Model = Config, SAM
    unit = "updates"
    steps = 3_000
    default_data = "nested"
    figure = "miou_1"
    better: Literal["lower", "higher"] = "higher"
    keep: Literal["best", "last"] = "best"

    def __init__(self, config: Config, data: instances.InstanceData, seed: int, hardware: Hardware, steps: int):
        self.config, self.data, self.seed, self.hardware, self.total = config, data, seed, hardware, steps
        self.parts = data.parts or (data,)
        if config.batch_size % len(self.parts):
            raise UsageError(
                f"batch_size = {config.batch_size} cannot be shared by {len(self.parts)} sets; allowed: multiples of "
                f"{len(self.parts)} (option --batch-size)."
            )
        self.masked = [part.masked("train") for part in self.parts]
        try:
            self.model = SAM(config.variant, data.size, seed, examples.length(data.words))
        except UsageError as error:
            raise UsageError(f"{str(error).rstrip('.')} (options --variant and --size).") from None
        self.forms = examples.Forms(data.size, config.least_scale, config.greatest_scale, config.flip, config.colour)
        for name, p in self.model.named_parameters():
            p.requires_grad_(name.startswith(LEARNED[config.learn]))
        if config.learn == "lora":
            for i, block in enumerate(self.model.image_encoder.blocks):
                low_rank.add(block.attn.qkv, config.rank, generator(seed, i, "low rank"))  # pyright: ignore
        talk = config.interactions, config.continued, config.focal, config.drop_path
        self.trained = hardware.prepare(Conversation(self.model, seed, steps, *talk))
        self.optimizer = Muon(self.groups(), betas=BETAS, fused=True)
        self.step = 0

    def groups(self) -> list[dict[str, Any]]:
        """Parameters by layer and by whether they decay, as weights of linear layers and convolutions do; and the scale
        of their step size."""
        c, depth = self.config, len(self.model.image_encoder.blocks)
        of = [m for m in self.model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
        matrices = {m.weight for m in of}
        found: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                found.setdefault((c.layer_decay ** (depth + 1 - layer(name, depth)), p in matrices), []).append(p)
        of_matrices, others = {"momentum": MOMENTUM, "weight_decay": c.weight_decay}, {"weight_decay": 0.0}
        return [
            {"params": ps, **(of_matrices if matrix else others), "scale": scale * (1.0 if matrix else OTHERS)}
            for (scale, matrix), ps in found.items()
        ]

    @staticmethod
    def open_data(
        spec: Any, size: int | None, threshold: float, skip_unreadable: bool = False
    ) -> instances.InstanceData:
        return instances.load(spec, size=size)

    def batches(self, start: int, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor, Tensor, int, list[int]]]:
        """Forms of pictures, masks of each, what is said of these, the step, and the rows of the batch of all processes
        that these are."""
        share = self.config.batch_size // len(self.parts)
        every = [minibatches(len(rows), share, self.seed + k, start) for k, rows in enumerate(self.masked)]
        for step, drawn in enumerate(zip(*every), start):
            wanted = [(k, self.masked[k][i]) for k, of in enumerate(drawn) for i in of.tolist()]
            if len(wanted) % world:
                raise UsageError(
                    f"a batch of {len(wanted)} pictures cannot be shared by {world} processes; choose a multiple."
                )
            rows = list(range(rank * len(wanted) // world, (rank + 1) * len(wanted) // world))
            yield (*self.framed(step, [wanted[row] for row in rows], rows), step, rows)

    def framed(self, step: int, wanted: list[tuple[int, int]], rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(b, 3, s, s), (b, p, s, s) and (b, p, e), on the device."""
        s, p, device = self.data.size, self.config.prompts, self.hardware.device
        x = torch.zeros(len(rows), 3, s, s)
        Y = torch.zeros(len(rows), p, s, s, dtype=torch.bool)
        said = torch.zeros(len(rows), p, self.model.words)
        for to, (k, i), row in zip(range(len(rows)), wanted, rows):
            r = np.random.default_rng([self.seed, step, row])
            picture, masks = examples.drawn(self.parts[k].split("train")[i], p, self.forms, r)
            h, w = picture.shape[1:]
            x[to] = self.model.framed(torch.from_numpy(picture))
            Y[to, :, :h, :w] = torch.from_numpy(masks)
            if self.data.words is not None:
                said[to] = examples.said(self.data.words, picture, masks, r)
        return x.to(device), Y.to(device), said.to(device)

    def update(self, batch: Any) -> dict[str, Tensor]:
        """One step of Muon on eq. (2)."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * self.learning_rate(self.step)
        self.trained.train()
        with self.hardware.autocast():
            loss, told = self.trained(*batch)
        self.hardware.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return {"loss": loss.detach(), **told}

    def learning_rate(self, step: int) -> float:
        """Up linearly, then down."""
        rise = min(1.0, (step + 1) / (self.config.warmup + 1))
        return self.config.learning_rate * rise * (1 - min(1.0, step / max(1, self.total)))

    # ------------------------------------------------------------ figures

    def evaluate(self, data: instances.InstanceData, split: str, limit: int | None = None) -> dict[str, Estimate]:
        """See `evaluation.figures`."""
        from ptheta.sam.evaluation import figures

        return figures(self.model, data.split(split)[:limit], self.data.words)

    def pictures(self) -> dict[str, Figure]:
        from ptheta.sam.evaluation import answers_drawn

        split = next(s for s in ("valid", "train") if s in self.data.splits)
        return {"answers": answers_drawn(self.model, self.data.split(split)[:4])}

    # ------------------------------------------------------------ files

    def save_model(self, folder: Path) -> None:
        model = SAM(**self.model.arguments)
        model.load_state_dict(low_rank.merged(self.model))
        model.save_pretrained(folder, about={"data": self.data.name}, card=self.card())

    def card(self) -> str:
        """The text of the model card."""
        code = "ptheta segment PICTURE --model FOLDER --point X,Y"
        return model_card(self, "mask-generation", "A mask for a point, a box or an earlier mask", code)

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
        """The weights of another SAM of the same variant, or of the encoder of `mae` (`--init`). What they know of
        words is left where this run is asked none."""
        if model.name == "mae":
            from ptheta.sam.from_mae import copy_encoder

            return copy_encoder(model, self.model)
        if model.name != "sam" or model.variant != self.model.variant:
            has = model.variant if model.name == "sam" else model.name
            raise UsageError(
                f"the weights are of {has}, the model is {self.model.variant}; say --variant, or give weights of sam "
                "or mae."
            )
        if self.model.words and model.words not in (0, self.model.words):
            raise UsageError(
                f"the weights know words of {model.words} numbers, the model of {self.model.words}; name the same "
                "model of words (option --words)."
            )
        own = self.model.state_dict()
        plain = {name.replace("parametrizations.weight.original", "weight"): name for name in own}
        theirs = resized(model.state_dict(), {name: own[of] for name, of in plain.items()})
        kept = {plain[name]: value for name, value in theirs.items() if name in plain}
        self.model.load_state_dict(kept, strict=False)


def layer(name: str, depth: int) -> int:
    """d of a parameter's name: 0 of patches and places, 1 to D of blocks, D + 1 of all that follows."""
    if not name.startswith("image_encoder.") or name.startswith("image_encoder.neck"):
        return depth + 1
    return int(name.split(".")[2]) + 1 if name.startswith("image_encoder.blocks.") else 0


Model = SAM
