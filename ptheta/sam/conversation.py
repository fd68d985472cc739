r"""A conversation about masks, as it is held in training: prompts, answers, what is taught by them.

A. Kirillov et al., "Segment Anything", ICCV 2023 (appendix A, "training algorithm").

Eqs. (1) and (2) of `sam`: a first prompt for each mask, then pixels of where answers are wrong. A first point may mean
any of the masks that hold it: these are taught together (`matching`), and an expected IoU with whatever comes nearest
of them (`losses`, eq. (4)).

Of three first answers a program goes on with that of the greatest expected IoU, and a person, who sees all three, with
that which comes nearest to what was meant, whatever is expected of it. Of the conversations `PERSON` go on as a person
would.

| symbol | shape | here |
|---|---|---|
| x | (b, 3, s, s) | pictures |
| Y | (b, p, s, s) | masks of each, all of which are asked for |
| m | (b p, 3 or 1, h, w) | logits, learned at half of s |
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from ptheta.data.order import generator
from ptheta.sam import clicks, losses, matching
from ptheta.sam.model import SAM

PERSON = 0.75


def turns(most: float, g: torch.Generator) -> list[Literal["point", "none"]]:
    """What each turn after the first adds, for a number of turns that is drawn: with u uniform in [0, 1) there are
    ⌊(most + 1)^u⌋. Of three and more the last adds none, and one of the others that follow the first."""
    n = int((most + 1) ** torch.rand((), generator=g, dtype=torch.float64).item())
    added: list[Literal["point", "none"]] = ["point"] * (n - 1)
    if n > 2:
        added[-1] = "none"
        if n > 3:
            added[int(torch.randint(1, n - 2, (), generator=g))] = "none"
    return added


class Conversation(nn.Module):
    """Eq. (2) for a batch: what is trained."""

    def __init__(
        self, model: SAM, seed: int, steps: int, interactions: int, continued: int, focal: float, drop_path: float
    ):
        super().__init__()
        self.model, self.seed, self.steps = model, seed, steps
        self.interactions, self.continued, self.focal = interactions, continued, focal
        depth = len(model.image_encoder.blocks)
        self.dropped = [drop_path * i / max(1, depth - 1) for i in range(depth)]

    def kept(self, step: int, rows: list[int]) -> Float[Tensor, "depth 2 b"] | None:
        """By what the halves of blocks are multiplied: 0, or 1 / (1 − p). rows: The pictures' places in the batch of
        all processes, by which all that is drawn for a picture is the same in any number of processes."""
        if not any(self.dropped):
            return None
        p = torch.tensor(self.dropped)[:, None]
        drawn = [torch.rand(len(p), 2, generator=generator(self.seed, step, f"paths of {row}")) for row in rows]
        kept = torch.stack([(one >= p) / (1 - p) for one in drawn], 2)
        return kept.to(self.model.mean)

    def forward(
        self, x: Float[Tensor, "b 3 s s"], Y: Bool[Tensor, "b p s s"], said: Float[Tensor, "b p e"], step: int,
        rows: list[int],
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """Eq. (2), and the IoU of the best first answer and of the last one. said: What a model of pictures and texts
        says of each mask, 0 where nothing; e = 0 without such a model."""
        model, (b, p) = self.model, Y.shape[:2]
        z = model.image_encoder(x, self.kept(step, rows))
        drawn = [generator(self.seed, step, f"clicks of {row}", x.device) for row in rows]
        truth = halved(Y.flatten(0, 1))
        at, labels = self.first(Y, said, drawn)
        words = said.flatten(0, 1) if model.words else None
        most = 1 + (self.interactions - 1) * min(1.0, step / max(1, self.steps))
        added = turns(most, generator(self.seed, step, "turns"))
        gamma, m = model.prompt_encoder.places(), z
        logits: Tensor | None = None
        total, count, first, last = z.new_zeros(()), 0, z.new_zeros(()), z.new_zeros(())
        for turn, what in enumerate(("first", *added)):
            if turn == 1:  # the conversation goes on about some of the masks
                assert logits is not None
                on = torch.arange(b * p, device=x.device).view(b, p)[:, : self.continued].flatten()
                at, labels, truth, m, logits = at[on], labels[on], truth[on], m[on], logits[on]
                words = None if words is None else words[on]
            if what == "point":
                at, labels = self.more(m[:, 0], truth, at, labels, drawn)
            prompt = at, labels, words
            tokens, dense = model.prompt_encoder.tokens(prompt, z), model.prompt_encoder.map(logits, prompt, z)
            answers, s = model.mask_decoder(z, gamma, tokens, dense, what == "first")
            m = interpolate(answers.float(), truth.shape[1:], mode="bilinear", align_corners=False)
            if turn == 0:
                may = holding(Y, at, labels)
                mask_loss, of = matching.loss(m, truth.unflatten(0, (b, p)), may, self.focal), nearest(m, truth, may)
                first = losses.iou(m, truth.float()).amax(1)
            else:
                mask_loss, of = losses.mask_loss(m[:, 0], truth.float(), self.focal), losses.iou(m, truth.float())
            total, count = total + (mask_loss + losses.iou_loss(s.float(), of)).sum(), count + len(s)
            best = s.argmax(1)
            if turn == 0:
                seen = torch.cat([torch.rand(p, generator=g, device=x.device) for g in drawn]) < PERSON
                best = torch.where(seen, losses.iou(m, truth.float()).argmax(1), best)
            chosen = torch.arange(len(s), device=x.device), best
            m, logits = m.detach()[chosen][:, None], answers.detach()[chosen][:, None].float()
            last = losses.iou(m, truth.float())
        # What no turn has used is part of the loss, too: processes wait for the gradient of every parameter.
        total = total + 0.0 * sum(p.sum() for p in self.parameters() if p.requires_grad)
        return total / count, {"first_iou": first.mean(), "last_iou": last.mean()}

    def first(
        self, Y: Bool[Tensor, "b p s s"], said: Float[Tensor, "b p e"], drawn: list[torch.Generator]
    ) -> tuple[Float[Tensor, "n 2 2"], Tensor]:
        """Two tokens of each first prompt: a point and none, or the corners of a box, one as likely as the other; with
        words as likely as these words and none, where something is said of the mask, else a point."""
        at, labels = [], []
        for masks, of, g in zip(Y, said, drawn):
            point, _ = clicks.anywhere(masks, g)
            corners = clicks.loose_box(masks, g).view(-1, 2, 2)
            u = torch.rand(len(masks), generator=g, device=masks.device)
            boxed, spoken = u < (1 / 3 if self.model.words else 1 / 2), of.any(1) & (u >= 2 / 3)
            at.append(torch.where(boxed[:, None, None], corners, torch.stack([point, 0 * point], 1)))
            kinds = torch.tensor([[1, -1], [2, 3], [4, -1]], device=masks.device)
            labels.append(kinds[boxed.long() + 2 * spoken])
        return torch.cat(at), torch.cat(labels)

    def more(
        self, m: Float[Tensor, "n h w"], truth: Bool[Tensor, "n h w"], at: Tensor, labels: Tensor,
        drawn: list[torch.Generator],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The prompts with a pixel of each region of errors; where there is none, with no point."""
        wrong = clicks.errors(m, truth)
        found = [clicks.anywhere(part, g) for part, g in zip(wrong.chunk(len(drawn)), drawn)]
        point, there = (torch.cat(parts) for parts in zip(*found))
        label = torch.where(there, clicks.labels(point, truth), -1)
        scale = self.model.size / m.shape[1]
        point = (point + 0.5) * scale - 0.5  # from this map's pixels to the frame's
        return torch.cat([at, point[:, None]], 1), torch.cat([labels, label[:, None]], 1)


def holding(
    Y: Bool[Tensor, "b p s s"], at: Float[Tensor, "n t 2"], labels: Int[Tensor, "n t"]
) -> Bool[Tensor, "b p p"]:
    """Which masks of its picture a first prompt may mean: its own, and of a point all that hold it."""
    b, p = Y.shape[:2]
    x, y = at[:, 0].long().view(b, p, 1, 2).unbind(3)
    i, j = torch.arange(b, device=Y.device)[:, None, None], torch.arange(p, device=Y.device)
    inside = Y[i, j, y.clamp(0, Y.shape[2] - 1), x.clamp(0, Y.shape[3] - 1)]
    return inside & (labels[:, 0] == 1).view(b, p, 1) | (j == j[:, None])


def nearest(
    m: Float[Tensor, "n k h w"], truth: Bool[Tensor, "n h w"], meant: Bool[Tensor, "b p p"]
) -> Float[Tensor, "n k"]:
    """The IoU of each answer with the one that comes nearest of the masks that may be meant."""
    b, p = meant.shape[:2]
    each = losses.ious(m.unflatten(0, (b, p)).flatten(1, 2), truth.unflatten(0, (b, p)).float())
    return each.unflatten(1, (p, -1)).masked_fill(~meant[:, :, None], 0.0).amax(3).flatten(0, 1)


def halved(Y: Bool[Tensor, "n s s"]) -> Bool[Tensor, "n h w"]:
    """Masks at half their side: where at least half of four pixels are within, or any, of a mask that would vanish."""
    share = avg_pool2d(Y[:, None].float(), 2)[:, 0]
    much = share >= 0.5
    return torch.where(much.any((1, 2), keepdim=True), much, share > 0)
