"""Encoders: batch normalisation against PyTorch's, for one process and for two; map sizes; the ViT by hand; patches."""

import math
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, gelu, layer_norm

from ptheta.data.order import generator
from ptheta.engine.errors import UsageError
from ptheta.nets import encoders
from ptheta.nets.encoders import (
    MLP,
    BatchNorm,
    Block,
    Convolution,
    ResNet,
    ViT,
    build,
    patches,
    patchify,
    pooled,
    unpatchify,
)


def some(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "some"), dtype=dtype)


def norms(affine: bool = True, dims: int = 2) -> tuple[BatchNorm, nn.Module]:
    """Ours and PyTorch's, with the same scales, shifts and running statistics."""
    ours = BatchNorm(3, affine).double()
    theirs = (nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d)(3, affine=affine).double()
    for name, values in {"weight": some(3), "bias": some(3, seed=1), "running_mean": some(3, seed=2)}.items():
        for norm in (ours, theirs):
            if getattr(norm, name) is not None:
                getattr(norm, name).data.copy_(values)
    return ours, theirs


# ---------------------------------------------------------------- batch normalisation


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dims", [2, 0])
def test_batch_norm_is_pytorchs(affine, dims):
    ours, theirs = norms(affine, dims)
    shape = (5, 3, 4, 2)[: 2 + dims]
    for step, training in enumerate((True, True, False)):
        ours.train(training)
        theirs.train(training)
        x = (some(*shape, seed=step) * 3 + 1).requires_grad_()
        same = x.detach().clone().requires_grad_()
        got, want = ours(x), theirs(same)
        torch.testing.assert_close(got, want)
        weights = some(*shape, seed=9)
        (got * weights).sum().backward()
        (want * weights).sum().backward()
        torch.testing.assert_close(x.grad, same.grad)
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    if affine:
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def of_two_processes(monkeypatch, norm: BatchNorm, halves: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What each of two processes computes, as two threads that meet wherever values are summed over processes."""
    from torch.distributed.nn import functional

    meeting, there, out = threading.Barrier(2, timeout=20), [None, None], [None, None]
    local = threading.local()

    def all_reduce(x):
        there[local.rank] = x
        meeting.wait()
        total = there[0] + there[1]
        meeting.wait()
        return total

    monkeypatch.setattr(functional, "all_reduce", all_reduce)
    monkeypatch.setattr(encoders, "processes", lambda: 2)
    copies = [BatchNorm(3, norm.weight is not None).to(norm.running_mean.dtype) for _ in halves]

    def work(rank: int) -> None:
        local.rank = rank
        copies[rank].load_state_dict(norm.state_dict())
        copies[rank].weight, copies[rank].bias = norm.weight, norm.bias
        out[rank] = copies[rank](halves[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(copies[0], name), getattr(copies[1], name))
        getattr(norm, name).copy_(getattr(copies[0], name))
    return out


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 3, 4, 2), (6, 3), (2, 3, 1, 1)])
def test_two_processes_normalise_as_one_would(shape, affine, monkeypatch):
    """Outputs, running statistics and gradients; also where each process has a single vector."""
    one, two = norms(affine)[0], norms(affine)[0]
    x = (some(*shape) * torch.arange(1, shape[0] + 1).view(-1, *[1] * (len(shape) - 1))).requires_grad_()
    same = x.detach().clone().requires_grad_()
    weights = some(*shape, seed=5)
    want = one(x)
    (want * weights).mean().backward()
    got = of_two_processes(monkeypatch, two, same.chunk(2))
    losses = [(half * w).mean() for half, w in zip(got, weights.chunk(2))]
    (sum(losses) / 2).backward()  # the mean over processes is what training takes
    torch.testing.assert_close(torch.cat(got), want)
    torch.testing.assert_close(same.grad, x.grad)
    for a, b in zip(two.state_dict().values(), one.state_dict().values()):
        torch.testing.assert_close(a, b)
    if affine:
        torch.testing.assert_close(two.weight.grad, one.weight.grad)
        torch.testing.assert_close(two.bias.grad, one.bias.grad)


def test_two_processes_are_as_exact_as_one_far_from_zero(monkeypatch):
    norm = BatchNorm(3)
    x = some(64, 3, dtype=torch.float32) + 1000
    want = norms(False)[0].train()(x.double())
    got = torch.cat(of_two_processes(monkeypatch, norm, x.chunk(2)))
    assert (got.detach() - want).abs().max() < 2e-3


def test_a_batch_of_one_vector_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="wants at least 2 vectors in a batch, got 1; raise --batch-size"):
        BatchNorm(3)(torch.zeros(1, 3, 1, 1))
    BatchNorm(3)(torch.zeros(1, 3, 2, 1))
    assert BatchNorm(3).eval()(torch.zeros(1, 3)).shape == (1, 3)


# ---------------------------------------------------------------- residual nets


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("side", "wanted"),
    [(1, 1), (4, 1), (8, 2), (9, 3), (20, 5), (21, 3), (28, 4), (32, 4), (37, 5), (64, 4), (96, 3), (224, 4)],
)
def test_maps_have_a_quarter_of_the_side_that_enters_the_first_stage(side, wanted, channels):
    net = ResNet((channels, side, side), generator(0, 0, "w"), 4).eval()
    x = some(2, channels, side, side, dtype=torch.float32)
    assert net.map(x).shape == (2, 16, wanted, wanted) and net.grid == (wanted, wanted)
    assert net(x).shape == (2, net.features) == (2, 16)
    torch.testing.assert_close(net(x), net.map(x).mean((2, 3)))
    entering = [m for m in net.stem if m.stride == 2]
    assert len(entering) == sum(side // 2**i > 20 for i in range(10)), "halved until at most 20"


@settings(deadline=None, max_examples=40)
@given(
    h=st.integers(1, 70), w=st.integers(1, 70), long=st.sampled_from([1, 1, 1, 9]), blocks=st.integers(1, 2),
    stages=st.integers(1, 4),
)  # fmt: skip
def test_the_grid_is_that_of_the_map_whatever_the_picture(h, w, long, blocks, stages):
    """Long ones too, whose short side would be halved to nothing."""
    net = ResNet((1, h, w * long), generator(0, 0, "w"), 2, blocks, stages).eval()
    map = net.map(torch.zeros(1, 1, h, w * long))
    assert map.shape == (1, 2 * 2 ** (stages - 1), *net.grid)


def test_a_block_is_equation_1():
    block = Block(generator(0, 0, "w"), 3, 5, 2).double()
    reference = nn.ModuleList([
        nn.Conv2d(3, 5, 3, 2, 1, bias=False), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3, 1, 1, bias=False),
        nn.BatchNorm2d(5), nn.Conv2d(3, 5, 1, 2, bias=False), nn.BatchNorm2d(5),
    ]).double()  # fmt: skip
    assert block.project is not None
    for i, mine in enumerate((block.first, block.second, block.project)):
        reference[2 * i].weight.data.copy_(mine.W)
        mine.norm.weight.data.copy_(some(5, seed=i))
        mine.norm.bias.data.copy_(some(5, seed=i + 3))
        reference[2 * i + 1].load_state_dict({**mine.norm.state_dict(), "num_batches_tracked": torch.tensor(0)})
    x, (w1, n1, w2, n2, p, n3) = some(4, 3, 6, 7), reference
    torch.testing.assert_close(block(x), (n2(w2(n1(w1(x)).relu())) + n3(p(x))).relu())
    same = Block(generator(0, 0, "w"), 5, 5, 1).double().eval()
    assert same.project is None
    nn.init.zeros_(same.second.norm.weight)
    torch.testing.assert_close(same(x[:, :1].expand(-1, 5, -1, -1)), x[:, :1].expand(-1, 5, -1, -1).relu())


def test_initial_weights_keep_the_spread_of_what_passes_a_relu():
    W = encoders.he(generator(0, 0, "w"), 200, 50, 3, 3)
    assert W.std().item() == pytest.approx(math.sqrt(2 / 450), rel=0.02)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_seed_gives_the_weights_and_the_global_generator_is_left_alone(kind):
    before = torch.get_rng_state()
    one, same, other = (build(kind, (1, 8, 8), generator(s, 0, "w"), 32, 1) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, p), q, r in zip(one.state_dict().items(), same.state_dict().values(), other.state_dict().values()):
        assert torch.equal(p, q)
        drawn = name.rsplit(".", 1)[-1] in ("W", "W_qkv", "W_o", "W_1", "W_2", "places")
        assert torch.equal(p, r) != drawn, name


def test_build_reads_width_and_depth():
    g = generator(0, 0, "w")
    net, vit = build("resnet", (3, 16, 16), g, 8, 2), build("vit", (3, 16, 16), g, 96, 2, 8)
    assert isinstance(net, ResNet) and (net.features, len(net.layers)) == (32, 6)
    assert isinstance(vit, ViT) and (vit.features, len(vit.blocks.layers), vit.blocks.heads) == (96, 2, 3)
    heads = {w: build("vit", (1, 8, 8), g, w, 1).blocks.heads for w in (1, 20, 40, 64, 97, 100, 127, 128)}  # type: ignore
    assert heads == {1: 1, 20: 1, 40: 1, 64: 2, 97: 1, 100: 2, 127: 1, 128: 4}, "any width has heads that divide it"
    with pytest.raises(UsageError, match="encoder 'resnet50' is unknown; allowed: resnet, vit"):
        build("resnet50", (1, 8, 8), g, 8, 1)


# ---------------------------------------------------------------- vision transformers


def test_a_vit_is_what_it_is_by_hand():
    """Patches one by one, every head of every token by itself, and what comes of them."""
    vit = ViT((3, 4, 6), generator(0, 0, "w"), width=8, depth=2, heads=2, patch=2).double()
    for p in vit.parameters():
        p.data += 0.3 * some(*p.shape, seed=p.numel())
    x = some(2, 3, 4, 6)
    for picture, z, map in zip(x, vit(x), vit.map(x)):
        h = torch.stack([
            vit.W @ picture[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten() + vit.b + vit.places[3 * i + j]
            for i in range(2) for j in range(3)
        ])  # fmt: skip
        for block in vit.blocks.layers:
            n, a = layer_norm(h, (8,), block.norm_1.weight, block.norm_1.bias), block.attention
            q, k, v = (n @ W.t() for W in a.W_qkv.chunk(3))
            q, v, seen = q + a.b_q, v + a.b_v, torch.zeros_like(h)
            for t in range(6):
                for head in (slice(0, 4), slice(4, 8)):
                    weights = torch.stack([q[t, head] @ k[s, head] / 2 for s in range(6)]).softmax(0)
                    seen[t, head] = sum(weights[s] * v[s, head] for s in range(6))
            h = h + seen @ a.W_o.t() + a.b_o
            n, m = layer_norm(h, (8,), block.norm_2.weight, block.norm_2.bias), block.mlp
            h = h + gelu(n @ m.W_1.t() + m.b_1, approximate="tanh") @ m.W_2.t() + m.b_2
        h = layer_norm(h, (8,), vit.blocks.norm.weight, vit.blocks.norm.bias)
        torch.testing.assert_close(z, h.mean(0))
        torch.testing.assert_close(map, h.view(2, 3, 8).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("shape", "patch", "allowed"),
    [((1, 28, 28), 5, "1, 2, 4, 7, 14, 28"), ((3, 8, 12), 3, "1, 2, 4"), ((1, 8, 8), 16, "1, 2, 4, 8"),
     ((1, 7, 11), 7, "1"), ((1, 8, 8), 0, "1, 2, 4, 8"), ((1, 8, 8), -4, "1, 2, 4, 8")],
)  # fmt: skip
def test_patches_that_do_not_divide_are_refused_with_those_that_do(shape, patch, allowed):
    with pytest.raises(UsageError, match=rf"patch = {patch} does not divide .*; allowed: {allowed} \(option") as error:
        build("vit", shape, generator(0, 0, "w"), 32, 1, patch)
    assert "\n" not in str(error.value)
    for good in allowed.split(", "):
        assert math.prod(patches(shape, int(good))) * int(good) ** 2 == shape[1] * shape[2]


@settings(deadline=None, max_examples=40)
@given(b=st.integers(0, 3), c=st.sampled_from([1, 3]), rows=st.integers(1, 4), columns=st.integers(1, 4),
       patch=st.integers(1, 5))  # fmt: skip
def test_patches_are_cut_in_order_and_put_together_again(b, c, rows, columns, patch):
    shape = (c, rows * patch, columns * patch)
    x = torch.arange(b * math.prod(shape)).view(b, *shape)
    cut = patchify(x, patch)
    assert cut.shape == (b, rows * columns, c * patch**2)
    for i in range(rows):
        for j in range(columns):
            there = x[:, :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            assert torch.equal(cut[:, i * columns + j], there.flatten(1))
    assert torch.equal(unpatchify(cut, shape, patch), x)


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("cells", [1, 2, 3, 9])
def test_pooled_features_are_means_of_cells(cells):
    map = some(2, 3, 4, 6)
    rows, columns = min(cells, 4), min(cells, 6)
    assert torch.equal(pooled(map, cells), adaptive_avg_pool2d(map, (rows, columns)).flatten(1))
    if cells == 2:
        by_hand = [map[:, c, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].mean((1, 2)) for c in range(3) for i in range(2)
                   for j in range(2)]  # fmt: skip
        torch.testing.assert_close(pooled(map, cells), torch.stack(by_hand, 1))


@pytest.mark.parametrize("last_norm", [False, True])
def test_a_head_is_what_it_is_by_hand(last_norm):
    head = MLP(generator(0, 0, "w"), 4, 5, 6, 3, last_norm=last_norm).double()
    assert (head.b is None) == last_norm, "a norm after it would cancel it"
    shift = some(3)
    if head.b is not None:
        head.b.data.copy_(shift)
    z = want = some(7, 4)
    for W in list(head.W)[:-1]:
        h = want @ W.t()
        want = ((h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()).relu()
    want = want @ list(head.W)[-1].t() + shift
    if last_norm:
        want = (want - want.mean(0)) / (want.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(head(z), want)
    assert [tuple(W.shape) for W in head.W] == [(5, 4), (6, 5), (3, 6)]


@pytest.mark.parametrize("sides", [(8, 8), (7, 10)])
@pytest.mark.parametrize("stride", [2, 3])
def test_a_strided_kernel_of_one_place_is_the_convolution_with_its_gradient(stride, sides):
    layer = Convolution(torch.Generator().manual_seed(0), 3, 5, 1, stride).double()
    x = torch.randn(2, 3, *sides, dtype=torch.float64).requires_grad_()
    found, want = layer(x), layer.norm(torch.nn.functional.conv2d(x, layer.W, None, stride))
    torch.testing.assert_close(found, want)
    weight = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad((weight * y).sum(), (x, layer.W)) for y in (found, want)), strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradients_of_few_channels_leave_memory_whole():
    """In a process of its own, which oneDNN's strided gradient ended on CPUs with AVX2 alone."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from ptheta.nets.encoders import Block\n"
        "g = torch.Generator().manual_seed(0)\n"
        "block = Block(g, 4, 8, 2)\n"
        "for _ in range(300):\n"
        "    x = torch.randn(4, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()\n"
        "    block(x).sum().backward()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
