r"""`ptheta export`: the prompt decoder as an ONNX file, for browsers and other languages.

    ptheta export sam_vit_b_01ec64.pth decoder.onnx

A page looks at a picture once, anywhere, and answers prompts where the person is: the file is what comes after the
image encoder. It is run by onnxruntime before it is kept, and has to say what the model says to 10^{−4}.

| input | shape | |
|---|---|---|
| image | (1, c, h, w) float32 | the picture's map (`SAM.embed_image`) |
| points | (1, n, 2) float32 | in pixels of the frame, x before y; n ≥ 2 |
| labels | (1, n) int64 | 1 inside, 0 outside, 2 and 3 corners of a box, −1 nothing: points without a box end with one |
| mask | (1, 1, 4 h, 4 w) float32 | logits of an earlier answer, or zeros |
| has_mask | (1,) float32 | 1, or 0 where there is none |

| output | shape | |
|---|---|---|
| masks | (1, 4, 4 h, 4 w) | logits: 0 for prompts that leave no doubt, 1 to 3 for others |
| ious | (1, 4) | expected IoUs |
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from ptheta.engine.errors import InputError
from ptheta.sam.mask_decoder import MASKS
from ptheta.sam.model import SAM

CLOSE = 1e-4
INPUTS, OUTPUTS = ("image", "points", "labels", "mask", "has_mask"), ("masks", "ious")


class PromptDecoder(nn.Module):
    """What the file computes."""

    def __init__(self, model: SAM):
        super().__init__()
        self.model = model

    def forward(
        self, image: Tensor, points: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        prompts, decoder = self.model.prompt_encoder, self.model.mask_decoder
        prompt = points, labels, None
        without, of_mask = prompts.map(None, prompt, image), prompts.map(mask, prompt, image)
        dense = torch.where(has_mask[:, None, None, None] > 0, of_mask, without)
        t, z = decoder.looked(image, prompts.places(), prompts.tokens(prompt, image), dense)
        m, s = decoder.masks(t, z, image, slice(0, MASKS)), decoder.ious(t)
        return m, s if decoder.scoring is None else decoder.scoring(m, s)


@torch.no_grad()
def inputs(model: SAM, points: int, mask: bool, seed: int = 0) -> tuple[Tensor, ...]:
    """A prompt and a map, drawn; where there are shares in it (`propagation`), that of a drawn picture."""
    g, side = torch.Generator().manual_seed(seed), model.prompt_encoder.side
    if model.image_encoder.fine is None:
        image = torch.randn(1, model.map_channels, side, side, generator=g)
    else:
        image = model.embed_image(torch.randn(1, 3, model.size, model.size, generator=g))
    return (
        image, model.size * torch.rand(1, points, 2, generator=g),
        torch.randint(-1, 4, (1, points), generator=g), torch.randn(1, 1, 4 * side, 4 * side, generator=g),
        torch.tensor([float(mask)]),
    )  # fmt: skip


@torch.no_grad()
def to_onnx(model: SAM, path: Path) -> float:
    """Write the file, in place of an earlier one only when it is whole and right. Returns the greatest difference.

    Raises InputError where a package is missing, or what onnxruntime computes is not what the model says."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"the export needs {error.name}; install it: pip install 'ptheta[onnx]'.") from None
    decoder = PromptDecoder(model.float().cpu().eval()).eval()
    n = torch.export.Dim("n", min=2, max=4096)
    part = path.with_name(f".part-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of packages that it can do without
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of PyTorch's about itself
            program = torch.onnx.export(
                decoder, inputs(model, 3, True), dynamo=True, verbose=False, input_names=list(INPUTS),
                output_names=list(OUTPUTS), dynamic_shapes=(None, {1: n}, {1: n}, None, None),
            )  # fmt: skip
            assert program is not None
            program.save(part)
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        off = 0.0
        for points, mask in ((2, False), (3, True), (9, True)):
            given = inputs(model, points, mask, seed=points)
            said = session.run(list(OUTPUTS), {k: x.numpy() for k, x in zip(INPUTS, given)})
            for ours, theirs in zip(decoder(*given), said):
                scale = max(1.0, float(ours.abs().max()))
                off = max(off, float(np.abs(ours.numpy() - np.asarray(theirs)).max()) / scale)
        if not off <= CLOSE:
            raise InputError(f"onnxruntime computes other masks than the model, by {off:.2g}; {path} is not written.")
        part.replace(path)
    finally:
        log.setLevel(level)
        part.unlink(missing_ok=True)
    return off


def export(model: Annotated[str, tyro.conf.Positional], file: Annotated[Path, tyro.conf.Positional]) -> None:
    """The prompt decoder of a Segment Anything model as an ONNX file.

    Args:
        model: A run, a model folder, an official .pth file, or a folder or Hub id as facebook/sam-vit-base.
        file: The file to write; one that exists is left alone.
    """
    from ptheta.sam import checkpoint

    if file.exists():
        raise InputError(f"{file} exists; name another file.")
    off = to_onnx(checkpoint.read(model), file)
    print(f"{file}  {file.stat().st_size / 2**20:.1f} MiB, as the model to {off:.1g}")


def command(argv: list[str]) -> int:
    """`ptheta export MODEL FILE`."""
    tyro.cli(export, args=argv, prog="ptheta export", description=(__doc__ or "").split("\n\n")[0])
    return 0
