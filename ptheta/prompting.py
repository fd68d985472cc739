"""What a person does with a trained model of masks for prompts on the command line: evaluate.

(`ptheta segment` and `ptheta export` take any model of that kind, ours or other people's.)
"""

from __future__ import annotations

import json as json_module
import math
from typing import Any

from ptheta import api
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.fit import flat
from ptheta.engine.progress import Progress
from ptheta.use import Source, open_source

TITLES = {
    "miou_1": "1 click, best of three", "miou_1_told": "1 click, the one it expects most of", "miou_3": "3 clicks",
    "miou_5": "5 clicks", "miou_box": "a box", "iou_correlation": "expected and true IoU, correlation",
    "miou_words": "a name", "miou_5_closer": "5 clicks, closer", "noc_90": "clicks to .9, closer (at most 20)",
    "unreached": "share not there after 20 clicks",
    "ar_1000": "AR@1000", "ar_1000_small": "AR@1000, small", "ar_1000_medium": "AR@1000, medium",
    "ar_1000_large": "AR@1000, large", "ods": "edges, F of one threshold", "ois": "edges, F of a threshold a picture",
}  # fmt: skip


def evaluate(
    run: Source, data: str | None = None, split: str | None = None, limit: int | None = None, clicks: bool = False,
    proposals: bool = False, edges: bool = False, words: str | None = None, mirrored: bool = False, json: bool = False,
) -> None:  # fmt: skip
    """Measure answers to clicks and boxes: mean IoU with the masks of pictures.

    Args:
        run: Run directory, model folder, Hub id, or SAM's .pth with --data.
        data: Other pictures with masks than the run was trained on.
        split: One split, or all (default: test, or the last there is).
        limit: Use only so many pictures.
        clicks: Also clicks of somebody who comes closer to what is small, and how many they are to an IoU of 0.9.
        proposals: Also the average recall of 1,000 masks without a prompt (AR@1000).
        edges: Also edges, made of masks without a prompt, against the borders of what people drew (ODS).
        words: A run of clip: also masks for names, of a model that learned with it.
        mirrored: Ask about each picture and its mirror image together; not with --proposals and --edges.
        json: Print one JSON object.
    """
    from ptheta.sam import evaluation

    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit} is impossible; allowed: at least 1 (option --limit).")
    if mirrored and (proposals or edges):
        raise UsageError("--proposals and --edges ask about the picture alone; leave out --mirrored.")
    model, observations = open_source(run, data)
    part = split or observations.splits[-1]
    examples: list[Any] = []
    for name in observations.splits if part == "all" else (part,):
        examples += observations.split(name)[:]
    examples = examples[:limit]
    spoken = None if words is None else speaking(model, observations, words)
    asked: Any = model
    if mirrored:
        from ptheta.sam.mirrored import Mirrored

        asked = Mirrored(model)
    found: dict[str, Any] = dict(evaluation.figures(asked, examples, spoken))
    if spoken is not None and "miou_words" not in found:
        raise InputError(f"no mask of {observations.name}, {part}, has a name to be asked for; nested has (--data).")
    for wanted, name in ((clicks, "clicks"), (proposals, "proposals"), (edges, "edges")):
        if wanted:
            with Progress(0, len(examples), "pictures", visible=True) as progress:
                progress.note(name)
                if name == "clicks":
                    from ptheta.sam.number_of_clicks import counted as measured
                elif name == "edges":
                    from ptheta.sam.edges import scored as measured
                else:
                    from ptheta.sam.proposals import recalls as measured
                found |= measured(asked, examples, progress=progress.advance)
    if json:
        figures = {k: v if math.isfinite(v) else None for k, v in flat(found).items()}
        print(json_module.dumps({"method": model.name, "data": observations.name, "split": part, "metrics": figures}))
        return
    print(f"{len(examples):,} pictures of {observations.name}, {part}: {found['miou_1'].n:,} masks; mean IoU")
    for key, value in found.items():
        error = "" if math.isnan(value.standard_error) else f" ± {value.standard_error:.3f}"
        print(f"{TITLES[key]:36} {value.mean:.3f}{error}")


def speaking(model: Any, observations: Any, words: str) -> Any:
    """The model of words, where it is of the kind that the model of masks learned with."""
    from ptheta.sam.examples import length

    spoken = observations.spoken(api.load(words)).words
    if length(spoken) != model.words:
        knows = f"knows words of {model.words} numbers" if model.words else "knows no words"
        raise UsageError(
            f"the model {knows}, and {words} says {length(spoken)}; give the run of clip that it learned with "
            "(option --words)."
        )
    return spoken
