"""Models with weights at which every part of them matters."""

import pytest
import torch

from ptheta.sam import model
from ptheta.sam.model import SAM, Variant

model.VARIANTS["plain"] = Variant(64, 6, 2, (1, 3, 5), 8, 256, 128, 256)  # small, and as the published ones are


def shaken(model: SAM, seed: int = 0) -> SAM:
    """Every parameter drawn anew, so that none is zero or one."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            spread = 0.3 if "norm" in name or "bias" in name or "embed" in name or "rel_pos" in name else 1.0
            scale = spread if p.dim() < 2 or "embed" in name or "rel_pos" in name else spread / p[0].numel() ** 0.5
            p.copy_(scale * torch.randn(p.shape, generator=g) + (p.dim() == 1 and name.endswith("weight")))
    return model.eval()


@pytest.fixture(scope="package")
def plain() -> SAM:
    return shaken(SAM("plain", 160))


@pytest.fixture(scope="package")
def tiny() -> SAM:
    return shaken(SAM("tiny", 160), seed=5)  # 10 × 10 tokens: windows of 8 do not divide them
