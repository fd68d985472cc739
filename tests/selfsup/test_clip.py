"""CLIP: the scale, what it reaches on colours, use, training, texts that travel, refusals."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ptheta.data.order import generator
from ptheta.data.pictures import PictureData, load
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import Hardware
from ptheta.selfsup import clip
from ptheta.selfsup.clip import CLIP, Config, Method, clip_loss, light
from ptheta.selfsup.pretraining import HELD_OUT
from ptheta.selfsup.text import BYTES, END, START, learn
from ptheta.selfsup.views import PRESETS, draw

TINY = {"encoder": "resnet", "width": 4, "depth": 1, "patch": 4, "cells": 1, "views": "none"}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220), "white": (240, 240, 240)}
CPU = Hardware(torch.device("cpu"), "fp32")


def build(shape=(3, 8, 8), seed: int = 0, **more) -> CLIP:
    small = {"project": 6, "length": 24, "text_width": 8, "text_depth": 1, **TINY}
    return CLIP(list(shape), seed, "", **{**small, **more})


def colours(n: int = 160, captions: bool = True, labels: bool = True) -> PictureData:
    """Pictures of one colour and some noise, with its name in their texts and as their class."""
    r, names = np.random.RandomState(0), list(COLOURS)
    y = r.randint(4, size=n)
    x = np.array([COLOURS[names[c]] for c in y])[:, :, None, None] + r.randint(-20, 20, (n, 3, 8, 8))
    ways = ["{} thing, paint, {}", "a picture of {} paint", "{} paint", "{}, thing", "{} symbol, paint"]
    texts = [ways[r.randint(len(ways))].replace("{}", names[c]) for c in y]
    parts = {}
    for split, first, last in (("train", 0, n // 2), ("valid", n // 2, 3 * n // 4), ("test", 3 * n // 4, n)):
        parts[split] = {split: x.clip(0, 255).astype(np.uint8)[first:last]}
        if labels:
            parts[f"{split}_labels"] = {f"{split}_labels": y[first:last]}
        if captions:
            parts[f"{split}_captions"] = {f"{split}_captions": texts[first:last]}
    classes = tuple(f"{name}-paint" for name in names)
    return PictureData("colours", (3, 8, 8), "made up.", classes, {k: (lambda v=v: v) for k, v in parts.items()})


def method(updates: int = 0, **more) -> Method:
    small = {
        "batch_size": 32, "learning_rate": 0.01, "warmup": 0, "width": 8, "project": 16, "text_width": 16,
        "text_depth": 1, "views": "none",
    }  # fmt: skip
    made = Method(Config(**{**small, **more}), colours(), 0, CPU, max(1, updates))
    for _, batch in zip(range(updates), made.batches(0, 0, 1)):
        made.update(batch)
    return made


# ---------------------------------------------------------------- the scale


def test_the_gradient_of_the_log_scale_is_that_of_differences():
    model, x = build().double().eval(), torch.randint(256, (6, 3, 8, 8), generator=generator(0, 0, "x")).byte()
    batch = x, model.tokens([f"text {i}" for i in range(6)])

    def loss(shift: float) -> torch.Tensor:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            moved.log_scale += shift
        u = moved.shared(moved.features(moved.view(x, 0, "view")), moved.W_i).double()
        v = moved.shared(moved.texts(batch[1]), moved.W_t).double()
        return clip_loss(u, v, moved.log_scale.exp()).mean()

    model(batch, 0)[0].backward()
    difference = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert model.log_scale.grad.item() == pytest.approx(difference.item(), rel=1e-3) and abs(difference) > 1e-3


def test_the_scale_starts_at_the_temperature_and_never_passes_100():
    assert build(temperature=0.05).log_scale.exp().item() == pytest.approx(20)
    trained = method(learning_rate=1.0, temperature=0.011)
    for _, batch in zip(range(4), trained.batches(0, 0, 1)):
        logs = trained.update(batch)
        assert trained.model.log_scale.exp().item() <= 100.001 and logs["scale"] <= 100.001
    with torch.no_grad():
        trained.model.log_scale.fill_(9.0)
    trained.model.after_update(0, 1)
    assert trained.model.log_scale.exp().item() == pytest.approx(100, rel=1e-5)
    with torch.no_grad():
        trained.model.log_scale.fill_(-9.0)
    trained.model.after_update(0, 1)
    assert trained.model.log_scale.item() == -9.0, "there is no lower bound"


# ---------------------------------------------------------------- figures


def test_training_on_colours_finds_texts_and_names_classes():
    trained = method()
    before = trained.evaluate(colours(), "test")
    trained = method(40)
    after = trained.evaluate(colours(), "test")
    assert after["loss"].mean < 0.7 * before["loss"].mean
    assert after["r5"].mean > 1.6 * after["r5_chance"].mean > 1.6 * before["r5"].mean  # about what the colour tells
    assert after["r1"].mean > 2 * before["r1"].mean
    assert after["zero_shot"].mean > 0.9 and after["zero_shot_macro"].mean > 0.9
    texts = colours().captions("test")
    copies = np.array([texts.count(t) for t in texts])
    chance = 1 - np.mean([math.comb(40 - m, 5) / math.comb(40, 5) for m in copies])
    assert after["r5_chance"].mean == pytest.approx(chance) and after["r5"].n == 40
    x, y = colours().split("test"), colours().labels("test")
    p = trained.model.zero_shot(x, ["red paint", "green paint", "blue paint", "white paint"])
    assert p.shape == (40, 4) and (p.argmax(1) == y).float().mean() > 0.9
    torch.testing.assert_close(p.sum(1), torch.ones(40))
    assert set(trained.pictures()) == {"neighbours", "map", "views", "texts"}


def test_what_there_is_not_is_not_measured():
    trained = method()
    figures = trained.evaluate(colours(labels=False), "valid", 12)
    assert "r5" in figures and figures["r5"].n == 12 and not {"zero_shot", "zero_shot_macro"} & set(figures)


# ---------------------------------------------------------------- use


def test_zero_shot_is_a_softmax_of_scaled_cosines_and_retrieval_their_order():
    model, texts = build(temperature=0.5).eval(), ["a cat", "two dogs", "a bird, flying"]
    x = torch.randint(256, (5, 3, 8, 8), generator=generator(0, 0, "x"), dtype=torch.uint8)
    u, v = model.image(x), model.text(texts)
    assert u.shape == (5, 6) and v.shape == (3, 6) and not u.requires_grad and not v.requires_grad
    torch.testing.assert_close(u.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(v.norm(dim=1), torch.ones(3))
    cosines = [[float(a @ b) for b in v] for a in u]
    for row, p, near in zip(cosines, model.zero_shot(x, texts), model.retrieve(x, texts, 2)):
        e = [math.exp(2 * c) for c in row]
        assert p.tolist() == pytest.approx([value / sum(e) for value in e], rel=1e-4)
        assert near.tolist() == sorted(range(3), key=lambda j: -row[j])[:2]
    assert model.embed(x).shape == (5, 16)
    torch.testing.assert_close(u, normalize(model.embed(x) @ model.W_i.t()).detach())


def test_a_text_is_read_alone_and_in_lower_case(monkeypatch):
    model, texts = build().eval(), ["a cat", "two dogs, running, far away", "", "Ünïcödé 🎈"]
    v = model.text(texts)
    monkeypatch.setattr(clip, "AT_ONCE", 3)
    torch.testing.assert_close(model.text(texts), v)
    for text, row in zip(texts, v):
        torch.testing.assert_close(model.text([f" {text.upper()} "])[0], row)
    assert model.text([]).shape == (0, 6) and model.image(torch.zeros(0, 3, 8, 8)).shape == (0, 6)


def test_an_ensemble_is_the_mean_of_what_is_said_of_a_class():
    model = build().eval()
    said = [model.text([prompt.format("food drink")])[0] for prompt in clip.PROMPTS]
    torch.testing.assert_close(model.classes(["food-drink"])[0], normalize(sum(said), dim=0))
    torch.testing.assert_close(model.classes(["food_drink", "flags"])[0], normalize(sum(said), dim=0))


def test_images_are_seen_as_in_eval_mode_and_no_use_changes_the_model():
    model, x = build(), torch.randint(256, (5, 3, 8, 8), generator=generator(0, 0, "x"), dtype=torch.uint8)
    u = model.eval().image(x)
    before = copy.deepcopy(model.train().state_dict())
    torch.testing.assert_close(model.image(x[:1]), u[:1])
    model.zero_shot(x, ["a"]), model.retrieve(x, ["a", "b"], 1)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", PRESETS)
def test_views_do_not_mirror_or_grey_what_a_text_may_speak_of(name):
    d = draw(light(PRESETS[name]), 400, generator(0, 0, "views"))
    assert (d.gain[:, 2] > 0).all() and (d.gain[:, 3].abs() <= 0.02 * 2 * math.pi + 1e-6).all()
    area = d.theta[:, 0, 0] * d.theta[:, 1, 1] - d.theta[:, 0, 1] * d.theta[:, 1, 0]
    assert area.min() > 0.55 and (d.box[:, 0] >= d.box[:, 1]).all() and (d.deviation == 0).all()


# ---------------------------------------------------------------- training


def test_batches_are_pictures_with_their_texts_and_those_of_processes_are_slices():
    whole, data = method(drop=0.5), colours()
    _, (x, t) = next(zip(range(1), whole.batches(3, 0, 1)))
    assert x.shape == (32, 3, 8, 8) and t[:, 0].eq(START).all() and t.eq(END).sum(1).eq(1).all()
    names = list(COLOURS)
    for picture, numbers in zip(x, t.tolist()):
        text = whole.model.tokenizer.decode(numbers)
        row = int((data.split("train") == picture).flatten(1).all(1).nonzero()[0])
        told = data.captions("train")[row]
        assert names[data.labels("train")[row]] in told and set(text.split(", ")) <= set(told.split(", "))
    parts = [next(whole.batches(3, rank, 2)) for rank in (0, 1)]
    assert torch.equal(torch.cat([p[0] for p in parts]), x)
    texts = [whole.model.tokenizer.decode(n) for p in parts for n in p[1].tolist()]
    assert texts == [whole.model.tokenizer.decode(n) for n in t.tolist()] and len(set(texts)) > 12


def test_the_loss_of_processes_is_the_loss_of_one(monkeypatch):
    made = method()
    model = made.model.eval()
    x, t = next(made.batches(0, 0, 1))
    whole, _ = model.loss((x, t), 5)
    u = model.shared(model.features(model.view(x, 5, "view")), model.W_i)
    v = model.shared(model.texts(t), model.W_t)
    monkeypatch.setattr(
        clip,
        "gathered_without_gradient",
        lambda a, w: torch.nn.functional.pad(t, (0, a.shape[1] - t.shape[1]), value=clip.PAD),
    )
    model.world, parts = 2, []
    for model.rank in (0, 1):
        mine = slice(16 * model.rank, 16 * model.rank + 16)
        monkeypatch.setattr(clip, "gathered", lambda a, w, m=mine: u if torch.allclose(a, u[m], atol=1e-5) else v)
        parts.append(model.loss((x[mine], t[mine]), 5)[0])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", [{}, {"encoder": "vit", "width": 8}, {"cells": 2}])
def test_everything_is_reached_by_the_gradient_and_measuring_changes_nothing(encoder):
    model, x = build(**encoder), torch.randint(256, (8, 3, 8, 8), generator=generator(0, 0, "x"), dtype=torch.uint8)
    batch = x, model.tokens([f"text {i}, tag" for i in range(8)])
    model.train()(batch, 0)[0].backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in model.parameters())
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.eval()(batch, HELD_OUT)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_bf16_gives_a_finite_loss_in_float32():
    made = method()
    batch, exact = next(made.batches(0, 0, 1)), copy.deepcopy(made.model).train()
    want = exact(batch, 0)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = made.model.train()(batch, 0)[0]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(want.item(), rel=0.05)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("vocabulary", [0, 290])
def test_the_tokenizer_travels_with_the_model(vocabulary, tmp_path):
    if vocabulary:
        pytest.importorskip("tokenizers")
    made = method(2, vocabulary=vocabulary)
    made.save_model(tmp_path / "model")
    again, texts = CLIP.from_pretrained(tmp_path / "model"), ["red thing", "Blue paint 🎈"]
    assert again.arguments == made.model.arguments and len(again.texts.E) == (vocabulary or BYTES)
    assert torch.equal(again.text(texts), made.model.eval().text(texts))
    told = json.loads((tmp_path / "model" / "config.json").read_text())["model"]["tokenizer"]
    assert bool(told) == bool(vocabulary) and again.tokenizer.told == told
    assert len(again.tokenizer.encode("red thing")) < 9 if vocabulary else len(again.tokenizer.encode("red")) == 3
    x = colours().split("test")
    assert torch.equal(again.zero_shot(x, texts), made.model.zero_shot(x, texts))


def test_a_resumed_method_and_one_begun_from_another_read_by_its_tokenizer():
    pytest.importorskip("tokenizers")
    made, other = method(2, vocabulary=290), method(vocabulary=290)
    other.model.read_by(learn(["quite other texts"] * 9, 275))
    assert other.model.tokens(["red thing"]).tolist() != made.model.tokens(["red thing"]).tolist()
    begun = copy.deepcopy(other)
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    begun.start_from(made.model)
    for one in (other, begun):
        assert one.model.arguments == made.model.arguments
        assert torch.equal(one.model.text(["red thing"]), made.model.text(["red thing"]))
    batches = zip(other.batches(2, 0, 1), made.batches(2, 0, 1))
    for _, (a, b) in zip(range(2), batches):
        assert torch.equal(other.update(a)["loss"], made.update(b)["loss"])


def test_an_encoder_comes_from_another_method_without_its_texts():
    made, encoder = method(), build(seed=9, width=8).encoder
    own = copy.deepcopy(made.model.texts.state_dict())

    class Other(torch.nn.Module):
        name = "other"

        def __init__(self):
            super().__init__()
            self.encoder = encoder

    made.start_from(Other())
    assert torch.equal(made.model.encoder.stem[0].W, encoder.stem[0].W)
    assert all(torch.equal(v, own[k]) for k, v in made.model.texts.state_dict().items())
    assert made.model.arguments["tokenizer"] == ""


# ---------------------------------------------------------------- refusals


def test_data_without_texts_are_refused_with_what_has_them():
    for data in (colours(captions=False), load(np.zeros((30, 8, 8), np.uint8))):
        with pytest.raises(
            InputError, match=r"has no captions.*--data emoji.*captions\.csv or captions\.jsonl"
        ) as error:
            Method(Config(), data, 0, CPU, 1)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("use", "kind", "message"),
    [(lambda m, x: m.text("a cat"), InputError, "texts are 'a cat'; allowed: a list of texts"),
     (lambda m, x: m.text([3]), InputError, r"texts are \[3\]; allowed: a list of texts"),
     (lambda m, x: m.zero_shot(x, []), InputError, "prompts are empty; allowed: a list of at least one"),
     (lambda m, x: m.zero_shot(x[:, :, :7], ["a"]), InputError, r"x has shape .*; allowed: \(b, 3, 8, 8\)"),
     (lambda m, x: m.retrieve(x, ["a", "b"], 3), UsageError, "k = 3 is impossible; allowed: 1 to 2"),
     (lambda m, x: m.retrieve(x, ["a", "b"], 0), UsageError, "k = 0 is impossible; allowed: 1 to 2")],
)  # fmt: skip
def test_bad_inputs_are_refused(use, kind, message):
    with pytest.raises(kind, match=message) as error:
        use(build(), torch.zeros(2, 3, 8, 8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "field",
    [{"temperature": 0.0}, {"project": 0}, {"vocabulary": -1}, {"length": 2}, {"text_width": 0}, {"text_depth": 0},
     {"drop": 1.0}],
)  # fmt: skip
def test_impossible_hyperparameters_are_refused(field):
    name = next(iter(field))
    with pytest.raises(UsageError, match=rf"{name} = .* is impossible; allowed: .*option --{name.replace('_', '-')}"):
        Config(**field)


def test_a_tokenizer_that_does_not_fit_and_a_batch_of_one_are_refused():
    with pytest.raises(UsageError, match="vocabulary = 100 is impossible; allowed: 0"):
        method(vocabulary=100)
    with pytest.raises(UsageError, match="a tokenizer of 259 numbers is impossible for vocabulary = 100; allowed"):
        build(vocabulary=100)
    with pytest.raises(UsageError, match="batch.size.* at least 2"):
        method(batch_size=1)


# ---------------------------------------------------------------- emoji


def test_emoji_have_texts_and_groups(real):
    real("emoji/captions.csv")
    data = load("emoji", size=8)
    made = Method(Config(batch_size=8, width=4, text_width=8, text_depth=1), data, 0, CPU, 1)
    logs = made.update(next(made.batches(0, 0, 1)))
    figures = made.evaluate(data, "test")
    assert 0.5 * math.log(8) < logs["loss"] < 3 * math.log(8)
    assert figures["r5_chance"].mean == pytest.approx(5 / 325, rel=0.02) and figures["r5"].mean < 0.1
    assert figures["zero_shot_macro"].n == 325 and 0 <= figures["zero_shot_macro"].mean < 0.5
