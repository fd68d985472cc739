"""The prompt decoder as an ONNX file, run by onnxruntime."""

import sys

import numpy as np
import pytest
import torch

from ptheta.cli import run
from ptheta.engine.errors import InputError
from ptheta.sam.export import INPUTS, PromptDecoder, inputs, to_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_it_says_what_the_model_says(tiny, tmp_path, capsys):
    tiny.save_pretrained(tmp_path / "model")
    run(["export", str(tmp_path / "model"), str(tmp_path / "made" / "decoder.onnx")])
    assert "decoder.onnx" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "made" / "decoder.onnx")
    for points in (2, 5, 12):
        given = inputs(tiny, points, points != 5, seed=points)
        masks, ious = session.run(None, {k: x.numpy() for k, x in zip(INPUTS, given)})
        with torch.no_grad():
            m, s = PromptDecoder(tiny)(*given)
        assert np.abs(masks - m.numpy()).max() < 1e-4 and np.abs(ious - s.numpy()).max() < 1e-4
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["decoder.onnx"]
    with pytest.raises(InputError, match="exists"):
        run(["export", str(tmp_path / "model"), str(tmp_path / "made" / "decoder.onnx")])


def test_it_is_what_the_predictor_asks(tiny):
    image, points, _, mask, _ = inputs(tiny, 3, True)
    labels = torch.tensor([[1, 0, -1]])
    with torch.no_grad():
        for has in (0.0, 1.0):
            m, s = PromptDecoder(tiny)(image, points, labels, mask, torch.tensor([has]))
            masks = mask if has else None
            several, ious = tiny.decode(image, points[:, :2], labels[:, :2], None, masks)
            one, its = tiny.decode(image, points[:, :2], labels[:, :2], None, masks, several=False)
            torch.testing.assert_close(m, torch.cat([one, several], 1), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(s, torch.cat([its, ious], 1), rtol=1e-4, atol=1e-5)


def test_a_package_that_is_missing(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"needs onnxscript; install it: pip install 'ptheta\[onnx\]'"):
        to_onnx(tiny, tmp_path / "decoder.onnx")
