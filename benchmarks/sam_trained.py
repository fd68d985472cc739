"""What can be measured of trained weights of Segment Anything alone.

    python benchmarks/sam_trained.py RUN --data nested              do masks in bfloat16 agree with those in float32
    python benchmarks/sam_trained.py RUN --data nested --filters    masks that were looked at twice, by confidence

Agreement is the mean IoU of each best mask in bfloat16 with that in float32, of a click in each mask's middle and of
its box, at the picture's own size, into benchmarks/results/sam_trained.json. Quality is the share of masks that have an
IoU above 0.9 with a true one, recall the share of true masks that have one; on the validation split, for a choice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ptheta import api
from ptheta.data import instances
from ptheta.sam import clicks
from ptheta.sam.boxes import around
from ptheta.sam.data_engine import every, stacked
from ptheta.sam.evaluation import asked, overlap, overlaps
from ptheta.sam.predictor import Predictor
from ptheta.sam.twice import Twice, twice

RESULTS = Path(__file__).parent / "results" / "sam_trained.json"
GOOD = 0.9
SURE = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.72, 0.75, 0.8)


def agreement(model, examples) -> dict[str, float]:
    """Mean and least IoU, by prompt."""
    both = [Predictor(model, precision) for precision in ("fp32", "bf16")]
    found: dict[str, list[torch.Tensor]] = {"click": [], "box": []}
    for example in examples:
        if not (rows := asked(example)):
            continue
        truth = every(example)[rows]
        at, _ = clicks.middle(truth)
        boxes = around(truth).float() + torch.tensor([0.0, 0.0, 1.0, 1.0])
        prompts = {"click": {"points": at[:, None], "labels": torch.ones(len(at), 1)}, "box": {"boxes": boxes}}
        for predictor in both:
            predictor.set_image(example.picture.transpose(1, 2, 0))
        for name, prompt in prompts.items():
            exact, rough = (predictor.predict(**prompt) for predictor in both)
            best, n = exact.ious.argmax(1), torch.arange(len(rows))
            found[name].append(overlap(exact.masks[n, best], rough.masks[n, best]))
    each = {name: torch.cat(parts) for name, parts in found.items()}
    return {f"{name}_{k}": float(f(x)) for name, x in each.items() for k, f in (("mean", torch.mean), ("least", min))}


def filters(model, examples, points: int) -> None:
    """A line for each least confidence of masks that were looked at twice."""
    predictor, told = Predictor(model), []
    for example in examples:
        x, truth = example.picture.transpose(1, 2, 0), every(example)
        found = twice(predictor, x, Twice(points=points, sure=min(SURE)))
        told.append((torch.tensor([one["confidence"] for one in found]), overlaps(stacked(found, x.shape[:2]), truth)))
    print("confidence  masks  quality  recall")
    for sure in SURE:
        masks = good = met = true = 0
        for q, ious in told:
            kept, true = ious[q >= sure], true + ious.shape[1]
            masks += len(kept)
            if len(kept):
                good += int((kept.amax(1) > GOOD).sum())
                met += int((kept.amax(0) > GOOD).sum())
        print(f"{sure:10.2f} {masks:6} {good / max(1, masks):8.0%} {met / true:7.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", default="nested")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--filters", action="store_true")
    given = parser.parse_args()
    model = api.load(given.run)
    data = instances.load(given.data, size=model.size)
    if given.filters:
        return filters(model, data.split("valid")[: given.pictures], given.points)
    told = agreement(model, data.split("test")[: given.pictures])
    print(json.dumps(told, indent=2))
    RESULTS.write_text(json.dumps({"data": given.data, "pictures": given.pictures, **told}, indent=2) + "\n")


if __name__ == "__main__":
    main()
