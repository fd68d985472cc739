"""Conversations, step by step beside a plain loop; turns, layers, paths, what is learned of given weights."""

import collections
import math

import pytest
import torch
from made_folders import masked

from ptheta.data import instances
from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.engine.hardware import detect
from ptheta.sam import checkpoint, clicks, conversation, losses, sam
from ptheta.sam.model import SAM

from .test_matching import by_hand as matched_by_hand

DATA = instances.load(masked(), size=64)
TURNS = (0, 2, 6, 24)  # steps with one, two, three and four turns of at most four


def method(data=DATA, **config) -> sam.Method:
    """Of a run of no steps: conversations are as long as they may be from the beginning."""
    config = {"batch_size": 2, "prompts": 3, "continued": 2, "interactions": 4, "warmup": 0, **config}
    return sam.Method(sam.Config(**config), data, 0, detect("cpu", "fp32", 1), 0)


def test_numbers_of_turns_are_drawn_as_the_docstring_says():
    counts = collections.Counter(len(conversation.turns(11, generator(0, step, "turns"))) + 1 for step in range(4000))
    assert set(counts) == set(range(1, 12))
    for n in (1, 2, 5, 11):
        p = math.log((n + 1) / n) / math.log(12)
        assert abs(counts[n] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_two_turns_of_many_add_no_point_and_the_last_is_one():
    for step in range(300):
        added = conversation.turns(11, generator(1, step, "turns"))
        none = [i for i, what in enumerate(added) if what == "none"]
        if len(added) < 2:
            assert not none
        else:
            assert none[-1] == len(added) - 1 and len(none) == (2 if len(added) > 2 else 1)
    assert {len([w for w in conversation.turns(11, generator(1, s, "turns")) if w == "point"]) for s in range(300)} >= {
        0,
        1,
        8,
    }


def click(talk) -> tuple[int, int]:
    """The pixel of a first point."""
    x, y = talk["at"][0]
    return int(y), int(x)


def by_hand(model: SAM, x, Y, said, step, seed, interactions, continued):
    """Eq. (2), mask by mask, with the prompts as a user gives them."""
    added = conversation.turns(interactions, generator(seed, step, "turns"))
    total, count = 0.0, 0
    for row, (picture, masks, of_words) in enumerate(zip(x, Y, said)):
        z = model.embed_image(picture[None])
        g = generator(seed, step, f"clicks of {row}")
        first, _ = clicks.anywhere(masks, g)
        boxes = clicks.loose_box(masks, g)
        u = torch.rand(len(masks), generator=g)
        boxed, spoken = u < (1 / 3 if model.words else 1 / 2), of_words.any(1) & (u >= 2 / 3)
        talks = [
            {
                "at": [] if b or w else [p.tolist()],
                "labels": [] if b or w else [1],
                "box": box[None] if b else None,
                "words": v[None] if w else None,
                "logits": None,
            }
            for p, box, v, b, w in zip(first, boxes, of_words, boxed, spoken)
        ]
        truth = halves = conversation.halved(masks)
        m = None
        people = torch.rand(len(masks), generator=g) < conversation.PERSON
        for what in ("first", *added):
            if what != "first":
                talks, truth, m = talks[:continued], truth[:continued], m[:continued]
            if what == "point":
                points, there = clicks.anywhere(clicks.errors(torch.stack(m), truth), g)
                for talk, point, is_there, of in zip(talks, points, there, truth):
                    label = int(of[int(point[1]), int(point[0])]) if is_there else -1
                    talk["at"].append(((point + 0.5) * 2 - 0.5).tolist())
                    talk["labels"].append(label)
            m = []
            for own, (talk, of) in enumerate(zip(talks, truth)):
                points = torch.tensor([talk["at"]]) if talk["at"] else None
                labels = torch.tensor([talk["labels"]]) if talk["at"] else None
                logits, s = model.decode(z, points, labels, talk["box"], talk["logits"], what == "first", talk["words"])
                holds = [what == "first" and talk["at"] and bool(whole[click(talk)]) for whole in masks]
                may = [y for y, is_in in zip(halves, holds) if is_in]
                near = [
                    max(losses.iou(logits[:, k : k + 1], y[None].float()).item() for y in [of, *may])
                    for k in range(s.shape[1])
                ]
                if what == "first":
                    of_mask, _ = matched_by_hand(logits[0], halves, own, holds, 5.0)
                else:
                    of_mask = losses.mask_loss(logits[:, 0], of[None].float(), 5.0)[0]
                total, count = total + of_mask + (s - torch.tensor([near])).square().mean(), count + 1
                best = int(s.argmax())
                if what == "first" and people[own]:
                    best = int(losses.iou(logits, of[None].float()).argmax())
                m.append(logits[0, best].detach())
                talk["logits"] = logits[:, best : best + 1].detach()
    return total / count


@pytest.mark.parametrize("step", TURNS)
@pytest.mark.parametrize("words", [0, 5])
def test_a_conversation_is_the_plain_loop(step, words):
    """Of steps whose numbers of turns differ; the gradient too."""
    learner = method()
    x, Y, said, _, rows = next(learner.batches(step, 0, 1))
    learner.model = SAM("tiny", 64, seed=3, words=words)  # of no unit that is zero but for rounding, as with some
    learner.trained = conversation.Conversation(learner.model, 0, 0, 4, 2, 5.0, 0.0)
    if words:
        said = torch.randn(*Y.shape[:2], words, generator=generator(0, step, "said"))
    loss, told = learner.trained(x, Y, said, step, rows)
    loss.backward()
    own = {name: p.grad.clone() for name, p in learner.model.named_parameters() if p.grad is not None}
    learner.model.zero_grad()
    expected = by_hand(learner.model, x, Y, said, step, 0, 4, 2)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for name, p in learner.model.named_parameters():
        if p.grad is not None:
            assert (own[name] - p.grad).norm() <= 1e-2 * p.grad.norm() + 1e-5, name
    assert 0 <= told["first_iou"] <= 1


def test_steps_of_that_test_have_different_numbers_of_turns():
    assert {len(conversation.turns(4, generator(0, step, "turns"))) for step in TURNS} == {0, 1, 2, 3}


def test_conversations_become_longer():
    learner = sam.Method(sam.Config(prompts=2), DATA, 0, detect("cpu", "fp32", 1), 100_000)
    asked = []
    learner.trained.more = lambda m, truth, at, labels, drawn: asked.append(0) or (at, labels)
    longest = []
    for first in (0, 50_000, 100_000):
        counts = []
        for step in range(first, first + 30):
            asked.clear()
            x, Y, said, _, rows = next(learner.batches(first, 0, 1))
            with torch.no_grad():
                learner.trained(x[:1], Y[:1, :1], said[:1, :1], step, rows[:1])
            counts.append(len(asked))
        longest.append(max(counts))
    assert longest[0] == 0 and 1 <= longest[1] <= 5 and longest[2] > longest[1]


def test_half_masks_keep_what_is_small():
    Y = torch.zeros(3, 8, 8, dtype=torch.bool)
    Y[0, 2:6, 2:6], Y[1, 3, 3] = True, True
    half = conversation.halved(Y)
    assert half[0].sum() == 4 and half[0, 1:3, 1:3].all()
    assert half[1].sum() == 1 and half[1, 1, 1] and not half[2].any()


def test_layers_are_slower_the_lower_they_are():
    learner = method(layer_decay=0.5, weight_decay=0.1)
    scales = {}
    for group in learner.optimizer.param_groups:
        for p in group["params"]:
            scales[p] = (group["scale"], group["weight_decay"])
    names = dict(learner.model.named_parameters())
    assert scales[names["image_encoder.pos_embed"]] == (0.15 * 0.5**7, 0.0)
    assert scales[names["image_encoder.blocks.0.mlp.lin1.weight"]] == (0.5**6, 0.1)
    assert scales[names["image_encoder.blocks.5.mlp.lin1.bias"]] == (0.15 * 0.5, 0.0)
    assert scales[names["image_encoder.neck.0.weight"]] == (1.0, 0.1)
    assert scales[names["mask_decoder.mask_tokens.weight"]] == (0.15, 0.0)
    assert scales[names["image_encoder.patch_embed.proj.weight"]] == (0.5**7, 0.1)
    assert scales[names["image_encoder.blocks.0.attn.rel_pos_h"]] == (0.15 * 0.5**6, 0.0)
    learner.update(next(learner.batches(0, 0, 1)))
    assert all(g["lr"] == g["scale"] * learner.learning_rate(0) for g in learner.optimizer.param_groups)


def test_paths_are_left_out_as_often_as_said_and_none_in_use():
    learner = method(drop_path=0.5)
    kept = torch.stack([learner.trained.kept(step, [0, 1]) for step in range(800)])
    share = (kept == 0).float().mean((0, 2, 3))
    torch.testing.assert_close(share, torch.linspace(0, 0.5, 6), atol=0.06, rtol=0)
    torch.testing.assert_close(kept.mean((0, 2, 3)), torch.ones(6), atol=0.1, rtol=0)
    assert method().trained.kept(0, [0]) is None
    x = torch.randn(2, 3, 64, 64)
    model = learner.model
    zero = torch.zeros(6, 2, 2)
    z = model.image_encoder.patch_embed(x) + model.image_encoder.pos_embed
    for block in model.image_encoder.blocks:
        assert torch.equal(block(z, zero[0]), z)
        torch.testing.assert_close(block(z, torch.ones(2, 2)), block(z))


@pytest.mark.parametrize(("learn", "still"), [
    ("prompts", ("image_encoder.",)), ("decoder", ("image_encoder.", "prompt_encoder.")),
    ("lora", ("image_encoder.", "prompt_encoder.")),
])  # fmt: skip
def test_what_is_not_to_be_learned_stays(learn, still, tmp_path):
    learner = method(learn=learn, rank=2)
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    for _, batch in zip(range(4), learner.batches(0, 0, 1)):
        learner.update(batch)
    after = dict(learner.model.named_parameters())
    frozen = {n for n in after if n.startswith(still) and "parametrizations.weight.0" not in n}
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    assert all(
        not torch.equal(before[n], after[n]) for n in after if n.endswith("transformer.layers.0.mlp.lin1.weight")
    )
    learner.save_model(tmp_path)
    model = SAM.from_pretrained(tmp_path)
    x = torch.randn(1, 3, 64, 64)
    learner.model.eval()
    torch.testing.assert_close(model.embed_image(x), learner.model.embed_image(x), rtol=1e-4, atol=1e-5)
    changed = any(not torch.equal(v, SAM("tiny", 64).state_dict()[k]) for k, v in model.state_dict().items()
                  if k.endswith("attn.qkv.weight") and k.startswith("image"))  # fmt: skip
    assert changed == (learn == "lora")


@pytest.mark.parametrize("learn", ["all", "lora"])
def test_weights_that_are_given_are_begun_with(learn, tmp_path):
    given = SAM("tiny", 64, seed=5)
    learner = method(learn=learn)
    learner.start_from(checkpoint.read(checkpoint.write_official(given, tmp_path / "tiny.pth")))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(learner.model.embed_image(x), given.embed_image(x))
    assert torch.equal(learner.model.mask_decoder.mask_tokens.weight, given.mask_decoder.mask_tokens.weight)
    with pytest.raises(UsageError, match=r"of small, the model is tiny; say --variant"):
        learner.start_from(SAM("small", 64))


@pytest.mark.parametrize("learn", ["all", "lora"])
def test_weights_of_another_size_are_begun_with(learn):
    given = SAM("tiny", 128, seed=5)
    learner = method(learn=learn)
    learner.start_from(given)
    own = learner.model.image_encoder
    expected = torch.nn.functional.interpolate(
        given.image_encoder.pos_embed.permute(0, 3, 1, 2), (4, 4), mode="bicubic"
    )
    torch.testing.assert_close(own.pos_embed, expected.permute(0, 2, 3, 1))
    assert own.blocks[1].attn.rel_pos_h.shape == (7, 32) and own.blocks[0].attn.rel_pos_h.shape == (15, 32)
    assert torch.equal(learner.model.mask_decoder.mask_tokens.weight, given.mask_decoder.mask_tokens.weight)


def test_impossible_sizes_and_shares_are_told(tmp_path):
    with pytest.raises(UsageError, match="vit_b for pictures of 64 pixels is impossible.*--variant and --size"):
        method(variant="vit_b")
    joined = instances.load(f"nested+{DATA.name}", size=64)
    with pytest.raises(UsageError, match="batch_size = 3 cannot be shared by 2 sets; allowed: multiples of 2"):
        method(joined, batch_size=3)
    x, Y, _, step, rows = next(method(joined, batch_size=4).batches(0, 0, 1))
    assert x.shape == (4, 3, 64, 64) and Y.shape == (4, 3, 64, 64) and rows == [0, 1, 2, 3]


def test_a_share_of_a_batch_is_what_one_process_would_see():
    learner = method(batch_size=4)
    whole, second = (next(learner.batches(3, rank, world)) for rank, world in ((0, 1), (1, 2)))
    assert torch.equal(whole[0][2:], second[0]) and torch.equal(whole[1][2:], second[1]) and second[4] == [2, 3]


def test_a_little_training_finds_a_large_thing():
    """One bright square in the dark, a click in it: 100 updates suffice."""
    learner = method(batch_size=4, prompts=1, interactions=2)
    learner.total = 100
    before = learner.evaluate(learner.data, "test")["miou_1"].mean
    for _, batch in zip(range(100), learner.batches(0, 0, 1)):
        learner.update(batch)
    after = learner.evaluate(learner.data, "test")["miou_1"].mean
    assert before < 0.5 and after > 0.6, (before, after)
