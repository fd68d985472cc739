"""SimCLR and BYOL as lightly's users write them: images a second of one process, printed as JSON.

Run by `benchmarks/selfsup.py` in an environment of its own, which has torch, torchvision and lightly:
`PEER/bin/python benchmarks/selfsup_peer.py METHOD BATCH UPDATES THREADS WORKERS < pictures.npy`. The encoder is the
small ResNet of `ptheta/nets/encoders.py`, layer for layer; views, heads and losses are lightly's.
"""

import contextlib
import copy
import io
import json
import sys
import time

import numpy as np
import torch

with_operators = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):  # where torchvision's own library does not fit torch; neither is used here
    with contextlib.suppress(RuntimeError):
        with_operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from lightly.loss import NegativeCosineSimilarity, NTXentLoss  # noqa: E402
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead, SimCLRProjectionHead  # noqa: E402
from lightly.models.utils import deactivate_requires_grad, update_momentum  # noqa: E402
from lightly.transforms import SimCLRTransform  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
        )
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        same = before == after and stride == 1
        self.project = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x):
        return torch.relu(self.second(self.first(x)) + self.project(x))


def resnet(width=32):
    return nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class Pictures(torch.utils.data.Dataset):
    def __init__(self, x):
        self.x = x
        self.views = SimCLRTransform(input_size=x.shape[-1], min_scale=0.3, normalize={"mean": [0.29], "std": [0.35]})

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.views(Image.fromarray(self.x[i, 0].numpy()))


def main(method, batch, updates, threads, workers):
    torch.set_num_threads(threads)
    x = torch.from_numpy(np.load(io.BytesIO(sys.stdin.buffer.read())))
    loader = torch.utils.data.DataLoader(
        Pictures(x), batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    encoder = resnet()
    if method == "simclr":
        head, loss_of = SimCLRProjectionHead(128, 256, 128), NTXentLoss(0.2)
        net = nn.ModuleList([encoder, head])

        def loss(a, b):
            return loss_of(head(encoder(a)), head(encoder(b)))
    else:
        head, predictor, loss_of = (
            BYOLProjectionHead(128, 256, 128),
            BYOLPredictionHead(128, 256, 128),
            NegativeCosineSimilarity(),
        )
        net = nn.ModuleList([encoder, head, predictor])
        slow, slow_head = copy.deepcopy(encoder), copy.deepcopy(head)
        deactivate_requires_grad(slow)
        deactivate_requires_grad(slow_head)

        def loss(a, b):
            update_momentum(encoder, slow, 0.99)
            update_momentum(head, slow_head, 0.99)
            p, q = predictor(head(encoder(a))), predictor(head(encoder(b)))
            with torch.no_grad():
                s, t = slow_head(slow(a)), slow_head(slow(b))
            return 0.5 * (loss_of(p, t) + loss_of(q, s))

    optimizer, done, began, losses = torch.optim.AdamW(net.parameters(), lr=2e-3), 0, None, []
    while True:
        for a, b in loader:
            value = loss(a, b)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(value.item())
            done += 1
            if done == 5:  # the first updates warm up
                began = time.perf_counter()
            if done == updates + 5:
                spent = time.perf_counter() - began
                print(json.dumps({"images_per_s": updates * batch / spent, "loss": [losses[0], losses[-1]]}))
                return


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]))
