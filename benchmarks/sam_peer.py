"""The official segment_anything package, run in an environment of its own, for benchmarks/sam.py.

    python sam_peer.py answers WEIGHTS.pth VARIANT PICTURE.npy PROMPTS.json OUT.npz     what it says, to be compared
    python sam_peer.py times WEIGHTS.pth VARIANT PICTURE.npy THREADS POINTS IOU STABILITY   seconds, one JSON object

torchvision, of which the package uses four functions, may be there or not: what it takes of it is written here, as a
build of torchvision for CUDA does not load beside PyTorch for processors.
"""

import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch


def nms(boxes, scores, threshold):
    """As torchvision's, in compiled loops of NumPy over all that follow."""
    order = scores.sort(descending=True, stable=True).indices
    b = boxes[order].double().numpy()
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    gone, kept = np.zeros(len(b), bool), []
    for i in range(len(b)):
        if gone[i]:
            continue
        kept.append(i)
        w = np.clip(np.minimum(b[i, 2], b[i:, 2]) - np.maximum(b[i, 0], b[i:, 0]), 0, None)
        h = np.clip(np.minimum(b[i, 3], b[i:, 3]) - np.maximum(b[i, 1], b[i:, 1]), 0, None)
        both = w * h
        with np.errstate(invalid="ignore"):
            gone[i:] |= both / (area[i] + area[i:] - both) > threshold
    return order[torch.tensor(kept, dtype=torch.long)]


def stand_in():
    """A torchvision of four functions."""
    from PIL import Image

    names = ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms")
    top, ops, boxes, transforms = (types.ModuleType(name) for name in names)
    functional = types.ModuleType("torchvision.transforms.functional")
    boxes.batched_nms = lambda b, s, i, iou_threshold: nms(b, s, iou_threshold)  # one class, as the package has it
    boxes.box_area = lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    functional.to_pil_image = Image.fromarray
    functional.resize = lambda picture, size: picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    top.ops, ops.boxes, top.transforms, transforms.functional = ops, boxes, transforms, functional
    for module in (top, ops, boxes, transforms, functional):
        sys.modules[module.__name__] = module


stand_in()
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry  # noqa: E402


def answers(weights, variant, picture, prompts, out):
    model = sam_model_registry[variant](checkpoint=weights).eval()
    predictor, said = SamPredictor(model), {}
    x = np.load(picture)
    predictor.set_image(x)
    said["map"] = predictor.get_image_embedding().numpy()
    told = json.loads(Path(prompts).read_text())
    for name, prompt in told["prompts"].items():
        given = {k: np.array(v) for k, v in prompt.items() if k != "several"}
        masks, ious, low = predictor.predict(
            point_coords=given.get("points"), point_labels=given.get("labels"), box=given.get("boxes"),
            mask_input=given.get("masks"), multimask_output=prompt["several"],
        )  # fmt: skip
        said |= {f"{name}.masks": masks, f"{name}.ious": ious, f"{name}.logits": low}
    found = {}
    for name, asked in told["everything"].items():
        generator = SamAutomaticMaskGenerator(model, output_mode="uncompressed_rle", **asked)
        found[name] = generator.generate(x)
    said["everything"] = np.array(json.dumps(found, default=float))
    np.savez(out, **said)


def times(weights, variant, picture, threads, points, iou, stability):
    torch.set_num_threads(int(threads))
    model = sam_model_registry[variant](checkpoint=weights).eval()
    x = np.load(picture)
    found = {}

    def clock(name, f, rounds):
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            f()
            took.append(time.perf_counter() - began)
        found[name] = sorted(took)[len(took) // 2]

    predictor = SamPredictor(model)
    framed = torch.randn(1, 3, 1024, 1024)
    with torch.no_grad():
        clock("encoder_fp32", lambda: model.image_encoder(framed), 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            clock("encoder_bf16", lambda: model.image_encoder(framed), 3)
    predictor.set_image(x)
    point, label = np.array([[x.shape[1] / 2, x.shape[0] / 2]]), np.array([1])
    clock("decoder", lambda: predictor.predict(point, label), 9)
    generator = SamAutomaticMaskGenerator(
        model, points_per_side=int(points), pred_iou_thresh=float(iou), stability_score_thresh=float(stability),
        output_mode="uncompressed_rle",
    )  # fmt: skip
    generator.predictor.set_image(x)
    generator.predictor.set_image = lambda *a, **k: None  # the picture is given
    generator.predictor.reset_image = lambda: None
    count = []
    clock("everything", lambda: count.append(len(generator.generate(x))), 1)
    print(json.dumps({**found, "masks": count[-1]}))


if sys.argv[1] == "answers":
    answers(*sys.argv[2:])
else:
    times(*sys.argv[2:])
