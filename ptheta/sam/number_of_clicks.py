r"""How many clicks a mask takes of somebody who is careful, and comes closer to what is small.

K. Sofiiuk, I. Petrov and A. Konushin, "Reviving Iterative Training with Mask Guidance for Interactive Segmentation",
ICIP 2022 (section 4).

With m^{(1)}, m^{(2)}, … the answers of a conversation about Y as the data engine's simulated annotator holds it (the
best of three first answers or, if that is better, its closer look, then pixels at the middle of what is wrong, in
windows of `closer`), over all masks of `evaluation` that are asked for

    NoC@90 = \operatorname{mean} \min(\{n : IoU(m^{(n)}, Y) ≥ 0.9\} ∪ \{20\})                                    (1)

    miou_5_closer = \operatorname{mean} IoU(m^{(5)}, Y)                                                           (2)

    unreached = \operatorname{mean} [IoU(m^{(n)}, Y) < 0.9 for all n ≤ 20]                                       (3)

(a conversation ends at an IoU of 0.9 in (1) and (3), and of 1 in (2)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ptheta.data.instances import Example
from ptheta.engine.method import Estimate
from ptheta.sam.closer import Closer
from ptheta.sam.data_engine import GOOD, clicked, every
from ptheta.sam.evaluation import CLICKS, asked, jackknifed, overlap
from ptheta.sam.model import SAM
from ptheta.sam.predictor import Predictor

MOST = 20


def counted(
    model: SAM, examples: Sequence[Example], progress: Callable[[int], Any] = lambda i: None
) -> dict[str, Estimate]:
    """Eqs. (1) to (3), as `noc_90`, `miou_5_closer` and `unreached`."""
    predictor = Predictor(model)
    after, spent, missed = [], [], []
    for i, one in enumerate(examples):
        if rows := asked(one):
            picture, truth = one.picture.transpose(1, 2, 0), every(one)[rows]
            predictor.set_image(picture)
            closer = Closer(predictor, picture)
            after.append(overlap(clicked(closer, truth, 1.0, CLICKS)[0], truth))
            _, count, reached = clicked(closer, truth, GOOD, MOST)
            spent.append(count.double())
            missed.append((~reached).double())
        progress(i + 1)
    told = {"miou_5_closer": after, "noc_90": spent, "unreached": missed}
    return {name: jackknifed(parts, lambda x: x.mean()) for name, parts in told.items() if parts}
