"""The simulated annotator beside a plain loop; counts by hand; what is there is not made again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptheta.data import instances, nested, rle
from ptheta.data.instances import Example
from ptheta.sam import clicks, data_engine, mask_sets
from ptheta.sam.closer import Closer
from ptheta.sam.data_engine import Simulated, Work, clicked, every, overlap, overlaps, round_of, told
from ptheta.sam.predictor import Predictor
from ptheta.sam.twice import Twice

SCENE = nested.scene(0, "valid", 3, 160)
EXAMPLE = Example("scene 3", SCENE.picture, tuple(rle.encode(m) for m in SCENE.masks), (0,) * len(SCENE.masks))
ASKED = Twice(points=4)


class Told(Closer):
    """One whose answers are the truth, of some after two clicks, of others after more."""

    def ask(self, points, labels, before=None, shown=0):
        turn, truth = super().ask(points, labels, before, shown), every(EXAMPLE)
        of = [k for k, one in enumerate(truth) if clicks.middle(one[None])[0][0].tolist() == points[0]]
        if len(points) > 1 + of[0] % 5:
            turn.answer.masks[:] = truth[of[0]]
        return turn


def test_clicks_are_those_of_a_plain_loop(tiny):
    truth = every(EXAMPLE)[:5]
    predictor, picture = Predictor(tiny), SCENE.picture.transpose(1, 2, 0)
    predictor.set_image(picture)
    closer = Closer(predictor, picture)
    made, spent, reached = clicked(closer, truth, 0.3, 4)
    for i, of in enumerate(truth):
        points, labels, turn, best, count = [clicks.middle(of[None])[0][0].tolist()], [1], None, 0, 0
        while True:
            count += 1
            turn = closer.ask(points, labels, turn, best)
            ious = overlap(turn.answer.masks, of.expand(len(turn.answer.masks), -1, -1))
            best = int(ious.argmax())
            if ious[best] >= 0.3 or count == 4:
                break
            point, _ = clicks.middle((turn.answer.masks[best] ^ of)[None])
            points.append(point[0].tolist())
            labels.append(int(clicks.labels(point, of[None])[0]))
        assert (int(spent[i]), bool(reached[i])) == (count, bool(ious[best] >= 0.3))
        assert (made[i] ^ turn.answer.masks[best]).sum() <= 3  # a batch rounds otherwise
    assert clicked(closer, truth[:0], 0.3, 4)[0].shape == (0, 160, 160)


class Near(Closer):
    """One who knows the truth of every second mask after a closer look, and nothing of the others."""

    def nearer(self, points, labels, before, shown=0):
        truth = every(EXAMPLE)
        of = next(k for k, one in enumerate(truth) if clicks.middle(one[None])[0][0].tolist() == points[0])
        masks = truth[of : of + 1] & (of % 2 == 0)
        return replace(self.begun(replace(before.answer, masks=masks)), window=(0, 0, 9, 9))


def test_a_closer_look_costs_no_click_and_only_what_is_better_is_taken(tiny):
    truth = every(EXAMPLE)[:6]
    predictor, picture = Predictor(tiny), SCENE.picture.transpose(1, 2, 0)
    predictor.set_image(picture)
    made, spent, reached = clicked(Near(predictor, picture), truth, 0.9, 1)
    assert (spent == 1).all() and reached.tolist() == [True, False] * 3 and torch.equal(made[::2], truth[::2])
    alone, _, _ = clicked(Closer(predictor, picture), truth, 0.0, 1)
    assert torch.equal(made[1::2], alone[1::2]) and made[1::2].flatten(1).any(1).all()


def test_masks_that_are_right_cost_no_click_and_wrong_ones_one(tiny, monkeypatch):
    monkeypatch.setattr(data_engine, "Closer", Told)
    truth = every(EXAMPLE)
    wrong = torch.zeros_like(truth[0])
    wrong[:50, :9] = True
    filled = [told(m.numpy(), source="model", clicks=0) for m in (truth[0], wrong, truth[2])]
    predictor = Predictor(tiny)
    predictor.set_image(SCENE.picture.transpose(1, 2, 0))
    work = Simulated(most=5).annotate(predictor, EXAMPLE, filled, lambda masks: None)
    missing = [i for i in range(len(truth)) if i not in (0, 2)]
    good = overlaps(truth[[0, 2]], truth)
    missing = [i for i in missing if good[:, i].max() < 0.9]
    assert work.thrown_out == 1
    assert [one["source"] for one in work.masks].count("model") == 2
    person = [one for one in work.masks if one["source"] == "person"]
    assert len(person) == len(missing) and work.clicks == sum(one["clicks"] for one in person) + 1
    painted = [one for one in person if one.get("painted")]
    assert 0 < len(painted) == work.painted < len(person) and all(one["clicks"] == 5 for one in painted)
    for one in painted:
        assert overlaps(data_engine.stacked([one], truth.shape[1:]), truth).max() == 1
    assert all(overlaps(data_engine.stacked([one], truth.shape[1:]), truth).max() >= 0.9 for one in work.masks)


def test_a_round_is_written_counted_and_gone_on_with(tiny, tmp_path):
    truth, seen = every(EXAMPLE), []

    class Careful:
        def annotate(self, predictor, example, filled, keep):
            seen.append((example.name, len(filled)))
            keep([told(truth[0].numpy(), source="person", clicks=2)])
            if len(seen) == 2:
                raise KeyboardInterrupt
            masks = [told(truth[0].numpy(), source="person", clicks=2), told((truth[1] & ~truth[1]).numpy(), clicks=7)]
            return Work(masks, clicks=9, seconds=1.0)

    examples = [EXAMPLE, Example("b", EXAMPLE.picture, EXAMPLE.masks, EXAMPLE.annotator)]
    arguments = ("assisted", tmp_path / "1", Predictor(tiny), Careful(), ASKED, ASKED, 1, lambda i: None)
    with pytest.raises(KeyboardInterrupt):
        round_of(examples, *arguments)
    about, masks = mask_sets.read(tmp_path / "1" / "00001-b.json")
    assert about["done"] is False and len(masks) == 1, "what was accepted before is on disk"
    assert not (tmp_path / "1" / "provenance.json").exists()
    report = round_of(examples, *arguments)
    assert seen == [("scene 3", 0), ("b", 0), ("b", 1)], "the first is not made again, the second goes on"
    assert (report["pictures"], report["masks"], report["clicks"]) == (2, 4, 18)
    assert report["clicks_per_mask"] == 4.5 and report["quality"] == 0.5
    same = (overlaps(truth[:1], truth)[0] > 0.9).sum().item()
    assert report["recall"] == pytest.approx(same / len(truth)) and report["mean_iou"] == pytest.approx(0.5)
    stored = json.loads((tmp_path / "1" / "provenance.json").read_text())
    assert stored["version"] == 1 and stored["weights"] == data_engine.fingerprint(tiny)
    data = instances.load(tmp_path / "1", size=160)
    assert np.array_equal(data.split("train")[0].picture, EXAMPLE.picture)
    assert np.array_equal(data.split("train")[0].mask(0), SCENE.masks[0])


def test_nobody_looks_at_automatic_masks(tiny, tmp_path):
    plain = Example("plain", EXAMPLE.picture, (), ())
    asked = Twice(points=4, sure=0.0)
    report = round_of(
        [plain], "automatic", tmp_path, Predictor(tiny), Simulated(), asked, asked, 3, lambda i: None
    )  # fmt: skip
    assert report["clicks"] == 0 and report["masks"] > 0 and report["from_model"] == report["masks"]
    assert report["quality"] is None and report["recall"] is None


def test_a_fingerprint_is_of_the_weights(tiny):
    import copy

    other = copy.deepcopy(tiny)
    assert data_engine.fingerprint(other) == data_engine.fingerprint(tiny)
    with torch.no_grad():
        other.mask_decoder.iou_token.weight[0, 0] += 1e-3
    assert data_engine.fingerprint(other) != data_engine.fingerprint(tiny)
