"""Weights in official files: there and back, and what is refused."""

import pytest
import torch

from ptheta.engine.errors import InputError, UsageError
from ptheta.sam import checkpoint
from ptheta.sam.model import SAM


def test_an_official_file_comes_back(tiny, tmp_path):
    other = checkpoint.read(checkpoint.write_official(tiny, tmp_path / "tiny.pth"))
    assert other.size == tiny.size and not other.training
    for (name, p), q in zip(tiny.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


def test_our_own_folder_comes_back(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "run" / "model")
    assert checkpoint.read(tmp_path / "run").size == tiny.size, "of a run it is the model"
    other = checkpoint.read(tiny.save_pretrained(tmp_path))
    assert all(torch.equal(p, q) for p, q in zip(tiny.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("variant", "parameters", "tensors"),
    [("vit_b", 93_735_472, 314), ("vit_l", 312_342_832, 482), ("vit_h", 641_090_608, 594)],
)
def test_official_sizes(variant, parameters, tensors):
    with torch.device("meta"):
        model = SAM(variant)
    assert sum(p.numel() for p in model.parameters()) == parameters and len(model.state_dict()) == tensors


def edited(tiny, tmp_path, change):
    tensors = dict(tiny.state_dict())
    change(tensors)
    torch.save(tensors, tmp_path / "edited.pth")
    return tmp_path / "edited.pth"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.pop("mask_decoder.iou_token.weight"), "does not fit tiny: it lacks mask_decoder.iou_token.weight"),
        (lambda t: t.update(more=torch.zeros(1)), "has besides more"),
        (
            lambda t: t.update({"image_encoder.neck.1.bias": torch.zeros(3)}),
            r"image_encoder.neck.1.bias \(3,\) for \(128,\)",
        ),
        (lambda t: t.pop("image_encoder.pos_embed"), "no image_encoder.pos_embed"),
        (lambda t: t.update({"image_encoder.pos_embed": torch.zeros(1, 10, 10, 97)}), "width 97; allowed: vit_b 768"),
        (lambda t: t.update({"image_encoder.pos_embed": torch.zeros(1, 10, 10, 768)}), "vit_b for pictures of 160"),
    ],
)
def test_weights_that_do_not_fit(tiny, tmp_path, change, why):
    with pytest.raises(InputError, match=why):
        checkpoint.read(edited(tiny, tmp_path, change))


def test_a_file_that_is_cut_short(tiny, tmp_path):
    path = checkpoint.write_official(tiny, tmp_path / "tiny.pth")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(InputError, match="cut short"):
        checkpoint.read(path)


def test_nothing_but_tensors_is_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="no archive of tensors"):
        checkpoint.read(tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="no tensors by name"):
        checkpoint.read(tmp_path / "list.pth")


def test_a_folder_without_config(tmp_path):
    with pytest.raises(InputError):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"variant": "vit_x"}, "vit_x"),
        ({"variant": "vit_b", "size": 512}, "allowed: 1024"),
        ({"variant": "tiny", "size": 100}, "multiples of 16"),
    ],
)
def test_models_that_are_impossible(arguments, why):
    with pytest.raises(UsageError, match=why):
        SAM(**arguments)


def test_weights_are_those_of_the_seed():
    state = torch.random.get_rng_state()
    a, b, c = SAM("tiny", 64), SAM("tiny", 64), SAM("tiny", 64, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, p), q, r in zip(a.state_dict().items(), b.state_dict().values(), c.state_dict().values()):
        assert torch.equal(p, q) and torch.isfinite(p).all(), name
        assert p.dim() < 2 or "rel_pos" in name or "norm" in name or not torch.equal(p, r), name
