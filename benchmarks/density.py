"""Speed of the density room, each figure beside what it is compared with, in one run on this machine.

    python benchmarks/density.py                 the speed table (about two minutes) → benchmarks/results/density.json
    python benchmarks/density.py --figures       also train the models of docs/density.md (hours) and measure their nats
    python benchmarks/density.py --figures debd  only those whose name contains "debd"

Ours and the comparison take turns; figures are medians over the turns, with the least and the greatest. Ratios are what
carries over to another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import binary_cross_entropy_with_logits, linear  # noqa: E402

from ptheta.density.made import MADE  # noqa: E402
from ptheta.density.nade import NADE  # noqa: E402
from ptheta.density.transformer import Transformer  # noqa: E402
from ptheta.engine.hardware import keep_freed_memory  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "density.json"


def turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both, taken in turns after one warm-up each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for r in range(rounds + 1):
        for which, function in enumerate((ours, theirs)):
            began = time.perf_counter()
            function()
            if r:
                seconds[which].append(time.perf_counter() - began)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def row(name: str, ours: list[float], theirs: list[float], against: str, wanted: str) -> dict:
    ratio = statistics.median(ours) / statistics.median(theirs)
    left = f"{name:44} {statistics.median(ours):9.4f} s"
    print(f"{left}   {against:28} {statistics.median(theirs):9.4f} s   ours/theirs {ratio:7.3f}   wanted {wanted}")
    return {
        "name": name,
        "ours": spread(ours),
        "against": against,
        "theirs": spread(theirs),
        "ratio": ratio,
        "wanted": wanted,
    }


def batch(b: int, n: int) -> Tensor:
    return (torch.rand(b, n, generator=torch.Generator().manual_seed(0)) < 0.13).float()


def stepper(loss: Callable[[], Tensor], parameters) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class Bare(nn.Module):
    """The same products with nothing around them: masks multiplied into the weights, plain autograd."""

    def __init__(self, sizes: list[int], masks: list[Tensor], direct: bool):
        super().__init__()
        self.W = nn.ParameterList(
            [nn.Parameter(torch.randn(o, i) * 0.01) for i, o in zip(sizes, sizes[1:], strict=False)]
        )
        self.b = nn.ParameterList([nn.Parameter(torch.zeros(o)) for o in sizes[1:]])
        self.A = nn.Parameter(torch.zeros(sizes[0], sizes[0])) if direct else None
        self.masks = masks

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for l, (W, b, M) in enumerate(zip(self.W, self.b, self.masks, strict=False)):
            h = linear(h, W * M, b)
            h = h.relu() if l + 1 < len(self.W) else h
        if self.A is not None:
            h = h + linear(x, self.A * self.masks[-1])
        return binary_cross_entropy_with_logits(h, x, reduction="none").sum(1)


class PlainNADE(nn.Module):
    """NADE as one writes it first: all activations by a cumulative sum, plain autograd."""

    def __init__(self, n: int, h: int):
        super().__init__()
        self.W, self.V = nn.Parameter(torch.randn(n, h) * 0.01), nn.Parameter(torch.randn(n, h) * 0.01)
        self.c, self.b = nn.Parameter(torch.zeros(h)), nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        terms = x[:, :, None] * self.W
        a = self.c + terms.cumsum(1) - terms
        logits = (a.sigmoid() * self.V).sum(-1) + self.b
        return binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)


def training_method(name: str, n: int, **config):
    """The whole method as `ptheta train` runs it: keyed batches, schedule, averaging, logging of the loss."""
    from ptheta.data.binary import load
    from ptheta.engine.hardware import Hardware
    from ptheta.methods import METHODS

    module = __import__(METHODS[name], fromlist=["Method"])
    method = module.Method(
        module.Config(**config), load(batch(2000, n)), 0, Hardware(torch.device("cpu"), "fp32"), 10**6
    )
    batches = method.batches(0, 0, 1)
    return lambda: method.update(next(batches))


def steps() -> list[dict]:
    x, rows = batch(100, 784), []
    ones = torch.ones(784, 784).tril(-1)
    bare = Bare([784, 784], [ones], False)
    rows.append(
        row(
            "fvsbn, step of 100×784",
            *turns(training_method("fvsbn", 784), stepper(lambda: bare(x).mean(), bare.parameters()), 40),
            "bare PyTorch loop",
            "≤ 1.2",
        )
    )
    for hidden in ((500,), (2000, 2000)):
        m = MADE(784, hidden)
        from ptheta.density.masked_linear import mask

        d = m.degrees(0)
        masks = [mask(d[l + 1], d[l], False).float() for l in range(len(hidden))]
        masks += [mask(d[0], d[-1], True).float(), mask(d[0], d[0], True).float()]
        bare_made = Bare([784, *hidden, 784], masks, True)
        ours = training_method("made", 784, hidden=hidden)
        theirs = stepper(lambda model=bare_made: model(x).mean(), bare_made.parameters())
        rows.append(
            row(
                f"made, step of 100×784×{'×'.join(map(str, hidden))}",
                *turns(ours, theirs, 30),
                "bare PyTorch loop",
                "≤ 1.2",
            )
        )
    plain = PlainNADE(784, 500)
    ours = training_method("nade", 784, hidden=500)
    rows.append(
        row(
            "nade, step of 100×784×500",
            *turns(ours, stepper(lambda: plain(x).mean(), plain.parameters()), 7),
            "vectorised autograd",
            "≤ 0.333",
        )
    )
    return rows


@torch.no_grad()
def sampling() -> list[dict]:
    rows = []
    nade = NADE(784, 500).eval()
    seconds = []
    for k in range(3):
        began = time.perf_counter()
        nade.sample(10_000, seed=k)
        seconds.append(time.perf_counter() - began)
    floor = 10_000 * 784 * 500
    rate = floor / statistics.median(seconds)
    name = "nade, 10,000 samples of 784 (h 500)"
    print(f"{name:44} {statistics.median(seconds):9.4f} s   wanted ≤ 6; {rate / 1e9:.2f} G sigmoids/s")
    x = torch.randn(125_000)
    began = time.perf_counter()
    for _ in range(200):
        torch.sigmoid(x, out=x)
    limit = 200 * x.numel() / (time.perf_counter() - began)
    print(f"{'':44} the sigmoid alone, in cache: {limit / 1e9:.2f} G/s: share of the limit {rate / limit:.2f}")
    rows.append({"name": name, "ours": spread(seconds), "wanted": "≤ 6 s", "sigmoids_per_s": rate, "limit": limit})
    for hidden in ((500,), (2000, 2000)):
        made = MADE(784, hidden).eval()

        count = 16  # of the n passes, which all take the same time; n of them take minutes to hours
        began = time.perf_counter()
        made.sample(10_000)
        made.sample(10_000)
        ours = (time.perf_counter() - began) / 2
        x = torch.zeros(10_000, 784)
        began = time.perf_counter()
        for _ in range(count):
            made.logits(x, 0)
        theirs = (time.perf_counter() - began) * 784 / count
        note = f"n full passes (from {count})"
        rows.append(row(f"made {'×'.join(map(str, hidden))}, 10,000 samples of 784", [ours], [theirs], note, "≤ 0.05"))
    rows.append(cached())
    return rows


def cached(b: int = 64, count: int = 16) -> dict:
    """The transformer with its cache beside a pass over the whole past for each pixel, of which `count` are timed."""
    model = Transformer(784, shape=(28, 28)).eval()
    began = time.perf_counter()
    drawn = model.sample(b)
    ours = time.perf_counter() - began
    value, seen, asked = model.tokens(model.values(drawn)[0], model.orders[:1].expand(b, -1))
    theirs = 0.0
    for i in range(count):
        past = slice(0, round((i + 0.5) * 784 / count))  # a middle of each of `count` equal parts
        began = time.perf_counter()
        model.hidden(value[:, past], seen[:, past], asked[:, past])
        theirs += (time.perf_counter() - began) * 784 / count
    name = f"transformer 6×128, {b} samples of 784"
    return row(name, [ours], [theirs], f"a full pass a pixel (from {count})", "≤ 0.1")


MEMORY = """
import resource
from benchmarks.density import training_method
step = training_method("nade", 784, hidden=500)
for _ in range(10): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def memory() -> list[dict]:
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, cwd=root)
    gib = float(out.stdout)
    print(f"{'nade, training 100×784×500, resident':44} {gib:9.3f} GiB  wanted < 1.5")
    return [{"name": "nade, resident while training", "gib": gib, "wanted": "< 1.5"}]


def starts() -> list[dict]:
    python, rows = sys.executable, []
    cases = (
        ("import ptheta", [python, "-c", "import ptheta"], 0.3),
        ("ptheta --help", [python, "-m", "ptheta", "--help"], 0.5),
        ("ptheta list", [python, "-m", "ptheta", "list"], 0.5),
        ("ptheta train made --help", [python, "-m", "ptheta", "train", "made", "--help"], 2.0),
    )  # fmt: skip
    for name, command, wanted in cases:
        seconds = []
        for _ in range(6):
            began = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            seconds.append(time.perf_counter() - began)
        seconds = seconds[1:]
        print(f"{name:44} {statistics.median(seconds):9.3f} s   wanted < {wanted}")
        rows.append({"name": name, "ours": spread(seconds), "wanted": f"< {wanted} s"})
    return rows


def figures(pattern: str) -> list[dict]:
    """Train every model of docs/density.md whose name contains `pattern`, or find it trained, and measure it."""
    from figures import FIGURES

    rows = []
    for name, split, wanted, command in FIGURES:
        if pattern not in name:
            continue
        out = Path("runs") / f"figure-{name}"
        done = (out / "pictures").exists()
        if not done:
            resume = ["--resume"] if (out / "config.json").exists() else []
            subprocess.run([sys.executable, "-m", *command.split(), "--out", str(out), *resume], check=True)
        ask = [sys.executable, "-m", "ptheta", "evaluate", str(out), "--split", split, "--json"]
        found = subprocess.run(ask, capture_output=True, text=True, check=True)
        measured = json.loads(found.stdout)["metrics"]
        print(f"{name:24} {split:6} {measured['nats']:9.3f} ± {measured['nats_se']:.3f} nats   wanted ≤ {wanted}")
        rows.append({"name": name, "split": split, "wanted": wanted, "command": command, **measured})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--figures", nargs="?", const="", help="train and measure the models whose name contains this")
    chosen = parser.parse_args()
    keep_freed_memory()  # as in training; both sides gain
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    machine["torch"] = torch.__version__
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if chosen.figures is None:
        result |= {"on": machine, "steps": steps(), "sampling": sampling(), "memory": memory(), "starts": starts()}
    else:
        known = {r["name"]: r for r in result.get("figures", [])}
        known |= {r["name"]: r for r in figures(chosen.figures)}
        result["figures"] = list(known.values())
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULTS)


if __name__ == "__main__":
    main()
