"""Transformer blocks against the equations written out, and the cache against the whole pass."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.nets.transformer import Blocks, Dropout, attention, causal_mask

CAUSAL = pytest.mark.parametrize("causal", [True, False])


def build(width=12, depth=3, heads=3, causal=True, seed=0, dtype=torch.float64, rotary=False) -> Blocks:
    """Blocks with every parameter drawn anew: initial biases are zero and would hide mistakes."""
    g = generator(seed, 0, "blocks")
    blocks = Blocks(width, depth, heads, g, causal, rotary).to(dtype)
    for p in blocks.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64).to(dtype) / (2 if p.dim() == 2 else 1)
    return blocks


def stream(b=2, t=7, width=12, seed=0) -> torch.Tensor:
    return torch.randn(b, t, width, generator=generator(seed, 0, "stream"), dtype=torch.float64)


def places(t=7, pairs=2, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles of t queries and of t keys."""
    drawn = 3 * torch.randn(2, t, pairs, generator=generator(seed, 0, "angles"), dtype=torch.float64)
    return drawn[0], drawn[1]


def turned_by_hand(v: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Eq. (5) of one head, by complex numbers."""
    z = torch.complex(*v.chunk(2, -1)) * torch.exp(1j * angle)
    return torch.cat([z.real, z.imag], -1)


def by_hand(blocks: Blocks, h: torch.Tensor, angles=None) -> torch.Tensor:
    """Eqs. (1)–(3) and (5) of one sequence (t, w), head by head and query by query.

    Keys that are not turned get some bias, which is no matter.
    """

    def norm(v, layer):
        spread = ((v - v.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True)
        return (v - v.mean(1, keepdim=True)) / (spread + 1e-5).sqrt() * layer.weight + layer.bias

    t, w = h.shape
    d, g = w // blocks.heads, generator(0, 0, "key bias")
    for block in blocks.layers:
        a, z = block.attention, norm(h, block.norm_1)
        W_q, W_k, W_v = a.W_qkv.split(w)
        q, k, v = z @ W_q.T + a.b_q, z @ W_k.T, z @ W_v.T + a.b_v
        k = k + (torch.randn(w, generator=g) if a.b_k is None else a.b_k)
        out = torch.zeros_like(h)
        for head in range(blocks.heads):
            part = slice(head * d, (head + 1) * d)
            if angles is not None:
                q[:, part], k[:, part] = turned_by_hand(q[:, part], angles[0]), turned_by_hand(k[:, part], angles[1])
            for i in range(t):
                last = i + 1 if blocks.causal else t
                e = torch.stack([q[i, part] @ k[s, part] / math.sqrt(d) for s in range(last)]).exp()
                out[i, part] = sum(e[s] / e.sum() * v[s, part] for s in range(last))
        h = h + out @ a.W_o.T + a.b_o
        m, z = block.mlp, norm(h, block.norm_2)
        z = z @ m.W_1.T + m.b_1
        z = 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))  # GPT-2's GELU
        h = h + z @ m.W_2.T + m.b_2
    return norm(h, blocks.norm)


@CAUSAL
@pytest.mark.parametrize(("width", "depth", "heads"), [(12, 3, 3), (8, 1, 8), (5, 2, 1)])
def test_blocks_equal_the_equations_written_out(width, depth, heads, causal):
    blocks, h = build(width, depth, heads, causal), stream(width=width)
    with torch.no_grad():
        want = torch.stack([by_hand(blocks, row) for row in h])
        torch.testing.assert_close(blocks(h), want, rtol=1e-10, atol=1e-10)


@CAUSAL
@pytest.mark.parametrize(("width", "heads"), [(12, 3), (8, 1)])
def test_rotary_blocks_equal_the_equations_written_out(width, heads, causal):
    blocks, h, angles = build(width, 2, heads, causal, rotary=True), stream(width=width), places(7, width // heads // 2)
    with torch.no_grad():
        want = torch.stack([by_hand(blocks, row, angles) for row in h])
        torch.testing.assert_close(blocks(h, angles=angles), want, rtol=1e-10, atol=1e-10)
        each = (torch.stack([a, a]) for a in angles)  # the same, named for each row
        torch.testing.assert_close(blocks(h, angles=tuple(each)), want, rtol=1e-10, atol=1e-10)
        other = blocks(h, angles=(angles[0], angles[1] + 0.5))
        assert (other - want).abs().max() > 1e-2, "the angles do not matter"


@torch.no_grad()
@settings(deadline=None, max_examples=20)
@given(shift=st.floats(-20, 20))
def test_only_differences_of_angles_matter(shift):
    blocks, h, (of_q, of_k) = build(rotary=True), stream(), places()
    moved = blocks(h, angles=(of_q + shift, of_k + shift))
    torch.testing.assert_close(moved, blocks(h, angles=(of_q, of_k)), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_with_equal_angles_rotary_attention_is_the_plain_one():
    rotary, plain, h, (angle, _) = build(rotary=True), build(), stream(), places(1)
    plain.load_state_dict({k: v for k, v in rotary.state_dict().items() if "b_k" not in k})
    torch.testing.assert_close(rotary(h, angles=(angle, angle)), plain(h), rtol=1e-10, atol=1e-10)


def test_angles_are_given_to_rotary_blocks_and_to_no_others():
    with pytest.raises(UsageError, match="no angles given with rotary = True; allowed: angles"):
        build(rotary=True)(stream())
    with pytest.raises(UsageError, match="angles given with rotary = False; allowed: none"):
        build()(stream(), angles=places())
    with pytest.raises(UsageError, match="3 columns a head cannot be turned in pairs; choose an even width/heads"):
        build(6, 1, 2, rotary=True)


@CAUSAL
def test_the_jacobian_over_tokens_is_triangular_where_attention_is_causal_and_full_where_not(causal):
    blocks, h = build(causal=causal), stream(b=1, t=6)[0]
    J = torch.autograd.functional.jacobian(lambda v: blocks(v[None])[0], h)  # (t, w, t, w)
    reach = J.abs().amax((1, 3))
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)
    assert (reach[~later] > 1e-6).all()
    assert (reach[later] == 0).all() if causal else (reach[later] > 1e-6).all()


def test_sequences_of_a_batch_do_not_meet():
    blocks, h = build(), stream(b=3)
    torch.testing.assert_close(blocks(h)[1:2], blocks(h[1:2]), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- cache


@settings(deadline=None, max_examples=25)
@given(pieces=st.lists(st.integers(1, 4), min_size=1, max_size=5), room=st.integers(0, 3), depth=st.integers(1, 3))
def test_tokens_passed_in_any_pieces_give_what_one_pass_gives(pieces, room, depth):
    t = sum(pieces)
    for rotary in (False, True):
        blocks, h, angles = build(depth=depth, rotary=rotary), stream(t=t), places(t) if rotary else None
        with torch.no_grad():
            cache, whole = blocks.cache(2, t + room), blocks(h, angles=angles)
            of_pieces = zip(*(a.split(pieces) for a in angles)) if angles else [None] * len(pieces)
            parts = zip(h.split(pieces, 1), of_pieces, strict=True)
            got = torch.cat([blocks(part, cache, angles=place) for part, place in parts], 1)
        assert cache.position == t
        torch.testing.assert_close(got, whole, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_a_reset_cache_is_as_good_as_a_new_one():
    blocks, h, other = build(), stream(), stream(seed=1)
    cache = blocks.cache(2, 7)
    blocks(other, cache)
    assert not torch.allclose(cache.keys, torch.zeros_like(cache.keys))
    memory = cache.keys.data_ptr()
    cache.reset()
    first, rest = blocks(h[:, :4], cache), blocks(h[:, 4:], cache)
    torch.testing.assert_close(torch.cat([first, rest], 1), blocks(h), rtol=1e-11, atol=1e-11)
    assert cache.keys.data_ptr() == memory


@torch.no_grad()
@pytest.mark.parametrize("rows", [[2, 0], [1, 1, 1, 0, 2], [0]])
def test_rows_of_a_cache_go_on_as_their_own_sequences(rows):
    """Rows may be repeated, reordered or left out; each then goes its own way, and the first cache stays."""
    blocks, past = build(), stream(b=3, t=4)
    cache = blocks.cache(3, 6)
    blocks(past, cache)
    keys = cache.keys.clone()
    chosen, future = cache.select(torch.tensor(rows)), stream(b=len(rows), t=2, seed=3)
    got = torch.cat([blocks(future[:, :1], chosen), blocks(future[:, 1:], chosen)], 1)
    want = blocks(torch.cat([past[rows], future], 1))[:, 4:]
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    assert (cache.position, chosen.position) == (4, 6) and torch.equal(cache.keys, keys)


@torch.no_grad()
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_a_cache_of_half_precision_holds_nearly_the_same(products):
    blocks, h = build(dtype=torch.float32), stream().float()
    cache = blocks.cache(2, 7, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=products == torch.bfloat16):
        got = torch.cat([blocks(part, cache) for part in h.split(2, 1)], 1)
    assert cache.keys.dtype == torch.bfloat16 and cache.keys.shape == (3, 2, 3, 7, 4)
    assert 0 < (got - blocks(h)).abs().mean() < 0.05 * blocks(h).abs().mean()


@torch.no_grad()
def test_too_many_tokens_for_the_cache_are_refused():
    blocks = build()
    cache = blocks.cache(2, 4)
    blocks(stream(t=3), cache)
    with pytest.raises(UsageError, match="5 tokens do not fit; allowed: the cache's 4"):
        blocks(stream(t=2), cache)


@torch.no_grad()
def test_a_cache_without_causal_attention_is_refused():
    blocks = build(causal=False)
    with pytest.raises(UsageError, match="attention is not causal; allowed: causal = True, or no cache"):
        blocks(stream(), blocks.cache(2, 7))


def test_the_mask_lets_every_token_see_those_before_and_itself():
    for t, before in ((1, 0), (3, 0), (2, 5)):
        want = [[s <= before + i for s in range(before + t)] for i in range(t)]
        assert causal_mask(t, before, torch.device("cpu")).tolist() == want


# ---------------------------------------------------------------- start, dropout, precision


def test_initial_weights_are_those_of_gpt_2_and_come_from_the_generator_given():
    before = torch.get_rng_state()
    blocks = Blocks(64, 8, 4, generator(3, 0, "start"))
    again, other = (Blocks(64, 8, 4, generator(seed, 0, "start")) for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    for name, p in blocks.named_parameters():
        last = name.split(".")[-1]
        if last in ("W_qkv", "W_1", "W_o", "W_2"):
            std = 0.02 / (math.sqrt(2 * 8) if last in ("W_o", "W_2") else 1)
            assert p.std().item() == pytest.approx(std, rel=0.05) and abs(p.mean().item()) < 0.05 * std, name
            assert torch.equal(p, again.get_parameter(name)) and not torch.equal(p, other.get_parameter(name))
        else:
            assert torch.equal(p.detach(), torch.full_like(p, float(last == "weight"))), name
    assert len({p.flatten()[0].item() for name, p in blocks.named_parameters() if "W_" in name}) == 4 * 8


def test_dropout_is_a_function_of_seed_step_and_stream_and_keeps_the_mean():
    h, before = torch.ones(100, 30, 8), torch.get_rng_state()
    drop = Dropout(0.3, seed=1, step=2)
    dropped = drop(h, "a")
    assert torch.equal(torch.get_rng_state(), before)
    assert set(dropped.unique().tolist()) == {0.0, h.div(0.7).max().item()}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(Dropout(0.3, seed=1, step=2)(h, "a"), dropped)
    for other in (Dropout(0.3, 1, 3)(h, "a"), Dropout(0.3, 2, 2)(h, "a"), drop(h, "b")):
        both = ((other == 0) & (dropped == 0)).float().mean().item()
        assert both == pytest.approx(0.09, abs=0.01), "two draws are not independent"


def test_processes_drop_what_one_process_would():
    h = stream(b=6)
    whole = Dropout(0.5, 1, 2)(h, "a")
    parts = [Dropout(0.5, 1, 2, rank, 3)(h[2 * rank : 2 * rank + 2], "a") for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)


@torch.no_grad()
def test_dropout_falls_on_both_branches_of_every_block_and_on_nothing_else():
    blocks, h = build(), stream()
    streams = []

    def nothing_left(branch, name):
        streams.append(name)
        return torch.zeros_like(branch)

    torch.testing.assert_close(blocks(h, dropout=nothing_left), blocks.norm(h))
    assert streams == [f"{branch} {l}" for l in range(3) for branch in ("attention", "mlp")]
    torch.testing.assert_close(blocks(h, dropout=lambda branch, name: branch), blocks(h))


def test_products_in_bf16_train_every_parameter():
    blocks, h, angles = build(dtype=torch.float32, rotary=True), stream().float(), tuple(a.float() for a in places())
    exact = blocks(h, angles=angles)
    with torch.autocast("cpu", torch.bfloat16):
        out = blocks(h, angles=angles)
    (out**2).sum().backward()
    assert (out - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in blocks.parameters())


@pytest.mark.parametrize(
    ("width", "depth", "heads", "message"),
    [
        (10, 2, 3, "width = 10 cannot be shared by heads = 3; choose a multiple of 3"),
        (0, 2, 1, "width = 0 is impossible; allowed: at least 1"),
        (4, 0, 1, "depth = 0 is impossible; allowed: at least 1"),
        (4, 1, 0, "heads = 0 is impossible; allowed: at least 1"),
    ],
)
def test_impossible_sizes_are_refused(width, depth, heads, message):
    with pytest.raises(UsageError, match=message):
        Blocks(width, depth, heads, generator(0, 0, "start"))


@pytest.mark.parametrize(
    ("b", "t", "s", "causal"),
    [(2, 12, 12, False), (3, 49, 49, True), (1, 5, 9, False), (1, 7, 7, True), (1, 1, 1, True)],
)
def test_attention_in_bf16_is_that_of_pytorch_and_so_is_its_gradient(b, t, s, causal):
    g, found = generator(0, 0, "attention"), []
    q, k, v = (torch.randn(b, 2, n, 8, generator=g) for n in (t, s, s))
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        if dtype == torch.float64:
            out = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=causal)
        else:
            out = attention(*inputs, causal=causal)
        assert out.dtype == dtype
        out.sum(2).square().sum().backward()
        found.append([out.detach(), *(x.grad for x in inputs)])
    for exact, mine in zip(*found, strict=True):
        assert (mine.double() - exact).abs().max() <= 0.03 * exact.abs().max() + 1e-6
