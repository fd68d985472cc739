"""The teacher's average and its slowness."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ptheta.data.order import generator
from ptheta.selfsup.teacher import follow, slowness


def test_the_teacher_slows_down_along_half_a_cosine():
    assert slowness(0.9, 0, 10) == pytest.approx(0.9) and slowness(0.9, 10, 10) == 1 == slowness(0.9, 99, 10)
    assert slowness(0.9, 5, 10) == pytest.approx(0.95)
    assert slowness(0.9, 2, 8) == pytest.approx(1 - 0.1 * (math.sqrt(0.5) + 1) / 2)
    rising = [slowness(0.99, k, 50) for k in range(51)]
    assert rising == sorted(rising)


@settings(deadline=None, max_examples=20)
@given(momentum=st.sampled_from([0.0, 0.5, 0.9, 1.0]), steps=st.integers(1, 4))
def test_a_teacher_follows_by_the_exponential_average_alone(momentum, steps):
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = copy.deepcopy(student).requires_grad_(False)
    want = [p.clone() for p in teacher.parameters()]
    for step in range(steps):
        for p in student.parameters():
            p.data += torch.randn(p.shape, generator=generator(0, step, "walk"))
        student[1].running_mean += step + 1
        want = [momentum * t + (1 - momentum) * p.detach() for t, p in zip(want, student.parameters())]
        follow(teacher, student, momentum)
    for mine, wanted, p in zip(teacher.parameters(), want, student.parameters()):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)
        assert not mine.requires_grad and p.requires_grad and mine.data_ptr() != p.data_ptr()
        assert torch.equal(mine, p) == (momentum == 0) or momentum == 0
    assert not torch.equal(teacher[1].running_mean, student[1].running_mean), "statistics come of its own passes"
