"""WaveNet's stack against its equations: causal, of the field it says, quick steps equal to all at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.engine.errors import UsageError
from ptheta.nets.wavenet import WaveNet, causal


def net(rates=(1, 2, 4), kernel=2, channels=3, out=4) -> WaveNet:
    return WaveNet(torch.Generator().manual_seed(0), channels, out, rates, kernel).double()


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("kernel", [2, 3])
def test_a_causal_convolution_is_eq_1(rate, kernel):
    x, W = some(2, 3, 11), some(4, 3, kernel)
    got = causal(x, W, rate)
    for t in range(11):
        want = sum(
            W[:, :, i] @ x[0, :, t - (kernel - 1 - i) * rate] for i in range(kernel) if t - (kernel - 1 - i) * rate >= 0
        )
        torch.testing.assert_close(got[0, :, t], want)


def test_layers_are_eq_2():
    model, x = net(), some(2, 3, 15)
    h, s = x, model.b[:, None]
    for FG, R, S, r in zip(model.FG, model.R, model.S, model.rates):
        z = causal(h, FG[:3], r).tanh() * causal(h, FG[3:], r).sigmoid()
        h, s = h + torch.einsum("dc,bct->bdt", R, z), s + torch.einsum("dc,bct->bdt", S, z)
    torch.testing.assert_close(model(x), s)


@settings(deadline=None, max_examples=30)
@given(rates=st.lists(st.integers(1, 5), min_size=1, max_size=4), kernel=st.integers(2, 3))
def test_an_output_depends_on_its_field_and_on_nothing_after_it(rates, kernel):
    model = net(tuple(rates), kernel)
    assert model.field == 1 + (kernel - 1) * sum(rates)
    length, t = model.field + 6, model.field + 2
    x = some(1, 3, length).requires_grad_()
    model(x)[0, :, t].sum().backward()
    read = x.grad[0].abs().sum(0).nonzero().flatten().tolist()
    assert read[-1] == t and read[0] == t - model.field + 1


@settings(deadline=None, max_examples=30)
@given(rates=st.lists(st.integers(1, 5), min_size=1, max_size=4), kernel=st.integers(2, 4), steps=st.integers(1, 40))
def test_a_step_at_a_time_gives_what_all_at_once_gives(rates, kernel, steps):
    model, x = net(tuple(rates), kernel), some(2, 3, steps)
    with torch.no_grad():
        queues = model.begin(2)
        one_by_one = torch.stack([model.step(x[:, :, t], t, queues) for t in range(steps)], 2)
        torch.testing.assert_close(one_by_one, model(x))


def test_ten_layers_see_1024_steps():
    assert net(tuple(2**i for i in range(10))).field == 1024


@pytest.mark.parametrize(("rates", "kernel"), [((), 2), ((1, 0), 2), ((1,), 1)])
def test_what_cannot_be_is_refused(rates, kernel):
    with pytest.raises(UsageError, match="allowed: rates from 1, kernels from 2"):
        net(rates, kernel)
