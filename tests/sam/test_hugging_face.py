"""The same weights in transformers' SamModel, which others wrote."""

import pytest
import torch

from ptheta.engine.errors import InputError, UsageError
from ptheta.sam import checkpoint
from ptheta.sam.model import SAM

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def theirs(plain, tmp_path_factory):
    folder = checkpoint.write_hugging_face(plain, tmp_path_factory.mktemp("sam") / "theirs")
    model, told = transformers.SamModel.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    return model.eval(), folder


@pytest.fixture(scope="module")
def pictures(plain):
    return torch.randn(2, 3, plain.size, plain.size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("prompts", ["points", "boxes", "both", "mask", "mask and points"])
@pytest.mark.parametrize("several", [True, False])
@torch.no_grad()
def test_masks_of_every_kind_of_prompt(plain, theirs, pictures, prompts, several):
    g = torch.Generator().manual_seed(4)
    points = labels = boxes = masks = None
    if "points" in prompts or prompts == "both":
        points = plain.size * torch.rand(2, 3, 2, generator=g)
        labels = torch.tensor([[1, 0, 1], [1, 1, 0]])
    if prompts in ("boxes", "both"):
        boxes = plain.size * torch.rand(2, 4, generator=g)
    if "mask" in prompts:
        masks = torch.randn(2, 1, plain.size // 4, plain.size // 4, generator=g)
    model, _ = theirs
    z = plain.embed_image(pictures)
    torch.testing.assert_close(z, model.get_image_embeddings(pictures), rtol=1e-4, atol=1e-4)
    said = model(
        image_embeddings=z, input_points=None if points is None else points[:, None],
        input_labels=None if labels is None else labels[:, None],
        input_boxes=None if boxes is None else boxes[:, None], input_masks=masks, multimask_output=several,
    )  # fmt: skip
    m, s = plain.decode(z, points, labels, boxes, masks, several)
    assert m.shape == (2, 3 if several else 1, plain.size // 4, plain.size // 4) and m.std() > 0.1
    torch.testing.assert_close(m, said.pred_masks[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(s, said.iou_scores[:, 0], rtol=1e-4, atol=1e-4)


def test_weights_come_back(plain, theirs):
    _, folder = theirs
    other = checkpoint.read(folder)
    assert other.arguments["variant"] == "plain" and other.size == plain.size
    for (name, p), q in zip(plain.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


def test_their_own_folder_is_read(plain, theirs, tmp_path):
    model, _ = theirs
    model.save_pretrained(tmp_path)
    other = checkpoint.read(tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(plain.state_dict().values(), other.state_dict().values(), strict=True))


def test_sizes_of_vit_b():
    with torch.device("meta"):
        model = SAM("vit_b")
        theirs = transformers.SamModel(transformers.SamConfig())
    names = {checkpoint.their_name(name) for name in model.state_dict()}
    own = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    assert names <= set(own) | {checkpoint.SHARED[0]}
    assert set(own) - names <= set(checkpoint.SHARED)
    for name, p in model.state_dict().items():
        assert own[checkpoint.their_name(name)] == tuple(p.shape), name


def test_a_folder_that_lacks_parameters_is_refused_with_their_names(theirs, tmp_path):
    from safetensors.torch import load_file, save_file

    _, folder = theirs
    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    tensors["extra.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(InputError, match=r"lacks mask_decoder.iou_token.weight; it has besides extra.weight"):
        checkpoint.read(tmp_path)


def test_convolutions_that_they_have_not_are_told(tiny, tmp_path):
    with pytest.raises(UsageError, match="tiny has convolutions that transformers' SamModel has not"):
        checkpoint.write_hugging_face(tiny, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
