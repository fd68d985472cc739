"""Segment Anything beside the official package, on the same weights.

    python benchmarks/sam.py --peer PYTHON            PYTHON has torch and segment-anything: what both say of a picture
    python benchmarks/sam.py --peer PYTHON --speed    and how long they take, both into benchmarks/results/sam.json

Weights are drawn at random, so that no part of the model is idle: nothing has to be fetched. Masks of such weights are
noise: thresholds are set where a third of them passes. Of --speed the encoders go in turns, in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ptheta.data import rle
from ptheta.sam import checkpoint
from ptheta.sam.everything import Everything, everything, grid
from ptheta.sam.model import SAM
from ptheta.sam.predictor import Predictor

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "sam.json"
VARIANT = "vit_b"
SURE = 12.0  # by what masks are drawn larger, so that some logits are above 1


def shaken(scale: float = 1.0) -> SAM:
    """Every parameter drawn, that of masks `scale` times as large."""
    model, g = SAM(VARIANT), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            wide = p.dim() < 2 or "embed" in name or "rel_pos" in name
            spread = 0.3 if wide else p[0].numel() ** -0.5
            p.copy_(spread * torch.randn(p.shape, generator=g) + (p.dim() == 1 and name.endswith("weight")))
        for head in model.mask_decoder.output_hypernetworks_mlps:
            for p in head.layers[2].parameters():  # pyright: ignore
                p.mul_(scale)
    return model.eval()


def picture() -> np.ndarray:
    """A picture of coloured noise, smooth enough to be one."""
    r = np.random.RandomState(1)
    x = torch.from_numpy(r.rand(1, 3, 12, 16)).float()
    return (
        (255 * torch.nn.functional.interpolate(x, (768, 1024), mode="bicubic")[0].clamp(0, 1))
        .byte()
        .permute(1, 2, 0)
        .numpy()
    )


def official(python: str, *argv: str) -> str:
    done = subprocess.run([python, str(HERE / "sam_peer.py"), *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def passing(predictor: Predictor, share: float) -> float:
    """An expected IoU that this share of masks is above."""
    h, w = predictor.sizes[0]
    s = torch.cat([predictor.looked(at)[2][:, 1:] for at in torch.from_numpy(grid(8) * [w, h]).split(8)])
    return float(s.flatten().quantile(1 - share))


def parity(python: str) -> dict:
    """The greatest differences."""
    r, x = np.random.RandomState(0), picture()[:400, :600]
    prompts = {
        "a point": {"points": [[300, 200]], "labels": [1], "several": True},
        "points": {"points": [[300, 200], [20, 30.5]], "labels": [1, 0], "several": False},
        "a box": {"boxes": [10, 20, 400, 300], "several": False},
        "a box and a point": {"boxes": [10, 20, 400, 300], "points": [[100, 100]], "labels": [0], "several": True},
        "a mask and a point": {"points": [[300, 200]], "labels": [1], "several": True,
                               "masks": r.randn(1, 256, 256).astype(np.float32).tolist()},
    }  # fmt: skip
    model = shaken(SURE)
    predictor = Predictor(model)
    predictor.set_image(x)
    iou = passing(predictor, 0.3)
    asked = {
        "plain": {"points_per_side": 6, "pred_iou_thresh": iou, "stability_score_thresh": 0.5, "box_nms_thresh": 1.0},
        "cleaned": {"points_per_side": 4, "pred_iou_thresh": iou, "stability_score_thresh": 0.5,
                    "box_nms_thresh": 1.0, "min_mask_region_area": 100},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        checkpoint.write_official(model, at / "weights.pth")
        np.save(at / "x.npy", x)
        (at / "prompts.json").write_text(json.dumps({"prompts": prompts, "everything": asked}))
        official(python, "answers", str(at / "weights.pth"), VARIANT, str(at / "x.npy"), str(at / "prompts.json"),
                 str(at / "out.npz"))  # fmt: skip
        said = dict(np.load(at / "out.npz"))
    assert predictor.images is not None
    found: dict = {
        "map, relative": float(np.abs(predictor.images.numpy() - said["map"]).max() / np.abs(said["map"]).max())
    }
    for name, prompt in prompts.items():
        answer = predictor.predict(**prompt)
        found[name] = {
            "logits": float(np.abs(answer.logits.numpy() - said[f"{name}.logits"]).max()),
            "ious": float(np.abs(answer.ious.numpy() - said[f"{name}.ious"]).max()),
            "pixels that differ": int((answer.masks.numpy() != said[f"{name}.masks"]).sum()),
        }
    theirs = json.loads(str(said["everything"]))
    for name, of in asked.items():
        ours = everything(
            predictor, x,
            Everything(points=of["points_per_side"], iou=of["pred_iou_thresh"], stability=0.5, overlap=1.0,
                       least=of.get("min_mask_region_area", 0)),
        )  # fmt: skip
        same = [a["segmentation"]["counts"] == b["segmentation"]["counts"] for a, b in zip(ours, theirs[name])]
        found[f"everything, {name}"] = {
            "masks": len(ours), "theirs": len(theirs[name]), "equal run lengths": sum(same),
            "equal boxes": sum(a["bbox"] == b["bbox"] for a, b in zip(ours, theirs[name])),
            "pixels that differ": sum(
                int((rle.decode(a["segmentation"]) ^ rle.decode(b["segmentation"])).sum())
                for a, b in zip(ours, theirs[name])
            ),
        }  # fmt: skip
    return found


def clock(f, rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        f()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


@torch.no_grad()
def speed(python: str, threads: int, points: int, rounds: int) -> dict:
    """Seconds of both, in turns."""
    torch.set_num_threads(threads)
    model, x = shaken(SURE), picture()
    predictor = Predictor(model)
    framed = torch.randn(1, 3, 1024, 1024)
    predictor.set_image(x)
    iou, stability = passing(predictor, 0.3), 0.5
    turns = []
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        checkpoint.write_official(model, at / "weights.pth")
        np.save(at / "x.npy", x)
        for i in range(rounds):
            argv = ("times", str(at / "weights.pth"), VARIANT, str(at / "x.npy"), str(threads),
                    str(points if i == 0 else 4), str(iou), str(stability))  # fmt: skip
            theirs = json.loads(official(python, *argv).splitlines()[-1])
            ours = {"encoder_fp32": clock(lambda: model.embed_image(framed), 3)}
            with torch.autocast("cpu", dtype=torch.bfloat16):
                ours["encoder_bf16"] = clock(lambda: model.embed_image(framed), 3)
            ours["decoder"] = clock(lambda: predictor.predict(points=[[512, 384]], labels=[1]), 9)
            asked = Everything(points=points if i == 0 else 4, iou=iou, stability=stability)
            predictor.set_image, kept = (lambda picture: None), predictor.set_image  # the picture is given
            began = time.perf_counter()
            ours["masks"] = len(everything(predictor, x, asked))
            ours["everything"] = time.perf_counter() - began
            predictor.set_image = kept
            turns.append({"ours": ours, "theirs": theirs})
            print(json.dumps(turns[-1]), flush=True)
    first = turns[0]
    share = lambda a, b: statistics.median(t["ours"][a] / t["theirs"][b] for t in turns)  # noqa: E731
    return {
        "threads": threads, "points": points, "turns": turns,
        "encoder fp32 / theirs fp32": share("encoder_fp32", "encoder_fp32"),
        "encoder bf16 / theirs fp32": share("encoder_bf16", "encoder_fp32"),
        "decoder ms": 1e3 * statistics.median(t["ours"]["decoder"] for t in turns),
        "their decoder ms": 1e3 * statistics.median(t["theirs"]["decoder"] for t in turns),
        "everything, times as fast": first["theirs"]["everything"] / first["ours"]["everything"],
        "masks": [first["ours"]["masks"], first["theirs"]["masks"]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="a Python that has torch and segment-anything")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    found = {"speed": speed(chosen.peer, chosen.threads, chosen.points, chosen.rounds)} if chosen.speed else {
        "parity": parity(chosen.peer)
    }  # fmt: skip
    print(json.dumps(found, indent=2))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**results, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
