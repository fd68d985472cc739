"""What answers look like, by counting; and that masks learn nothing by it."""

import math

import pytest
import torch

from ptheta.sam.scoring import Scoring, looks


def test_looks_by_counting():
    logits = [2.0, 0.5, -0.5, -3.0]
    expected, stable, large = looks(torch.tensor(logits).view(1, 1, 2, 2))
    p = [1 / (1 + math.exp(-m)) for m in logits]
    assert expected.item() == pytest.approx((p[0] + p[1]) / (2 + p[2] + p[3]))
    assert stable.item() == pytest.approx(1 / 3)
    assert large.item() == pytest.approx(1 + math.log(0.5 + 1e-4) / 5)


def test_sure_answers_look_good_and_empty_ones_are_allowed():
    m = torch.stack([torch.full((4, 4), -20.0), torch.full((4, 4), 20.0)])[None]
    m[0, 1, 2:] = -20
    expected, stable, _ = looks(m)
    assert expected[0].tolist() == pytest.approx([0, 1], abs=1e-6) and stable[0].tolist() == pytest.approx([0, 1])


def test_is_learned_by_its_own_weights_and_the_token_alone():
    m = torch.randn(2, 3, 4, 4, requires_grad=True)
    s = torch.randn(2, 3, requires_grad=True)
    scoring = Scoring()
    scoring(m, s).sum().backward()
    assert m.grad is None and s.grad is not None and scoring.first.weight.grad is not None


def test_of_one_answer_as_of_many():
    m, s, scoring = torch.randn(5, 3, 8, 8), torch.randn(5, 3), Scoring()
    together = scoring(m, s)
    torch.testing.assert_close(scoring(m.flatten(0, 1)[:, None], s.flatten()[:, None])[:, 0], together.flatten())
