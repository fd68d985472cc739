"""`ptheta doctor`: runs a little of everything that ptheta stands on, and reports.

Only the standard library is imported up here, so that the report comes out whatever is broken. A part is
named before it is tried: should it bring down the whole process, the last line says which one it was.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import io
import json as json_format
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any


def expect(condition: Any, wrong: str) -> None:
    """AssertionError with `wrong` unless the condition holds."""
    if not condition:
        raise RuntimeError(wrong)


def check_torch() -> None:
    """A matrix product and its gradient."""
    import numpy as np
    import torch

    for device in ["cpu", *([torch.accelerator.current_accelerator()] if torch.accelerator.is_available() else [])]:
        for dtype in [torch.float32, torch.bfloat16]:
            a = torch.from_numpy(np.arange(6, dtype=np.float32)).to(device, dtype).reshape(2, 3).requires_grad_()
            product = a @ torch.arange(12.0, device=device, dtype=dtype).reshape(3, 4)
            product.sum().backward()
            expect(product.tolist() == [[20, 23, 26, 29], [56, 68, 80, 92]], f"wrong {dtype} product on {device}")
            expect(a.grad is not None and a.grad.tolist() == [[6, 22, 38]] * 2, f"wrong {dtype} gradient on {device}")


def check_models() -> None:
    """A safetensors file there and back."""
    import torch
    from huggingface_hub import ModelCardData
    from safetensors.torch import load_file, save_file

    kept = torch.arange(5.0)
    with tempfile.TemporaryDirectory() as folder:
        save_file({"kept": kept}, f"{folder}/t.safetensors")
        expect(torch.equal(load_file(f"{folder}/t.safetensors")["kept"], kept), "a tensor came back changed")
    expect("apache-2.0" in ModelCardData(license="apache-2.0").to_yaml(), "a model card lost its license")


def check_tyro() -> None:
    """A parsed command line."""
    import tyro

    expect(tyro.cli(tuple[int, float], args=["3", "0.5"]) == (3, 0.5), "an argument was misread")


def check_pictures() -> None:
    """A figure drawn and read back."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure, png = Figure(figsize=(1, 1), dpi=50), io.BytesIO()
    figure.add_subplot().plot([0, 1], [1, 0])
    FigureCanvasAgg(figure).print_png(png)
    picture = Image.open(png).convert("L")
    expect(picture.size == (50, 50) and picture.getextrema()[0] != 255, "a drawn figure is blank")


def check_tensorboard() -> None:
    """An event file written."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            writer.add_scalar("nats", -1.0, 0)
        expect(any(b"nats" in file.read_bytes() for file in Path(folder).iterdir()), "no event was written")


def check_control() -> None:
    """An environment stepped."""
    import gymnasium
    import mujoco  # noqa: F401

    for name in ["CartPole-v1", "InvertedPendulum-v5"]:
        with contextlib.closing(gymnasium.make(name)) as env:
            env.reset(seed=0)
            env.action_space.seed(0)
            observation, *_ = env.step(env.action_space.sample())
            expect(env.observation_space.contains(observation), f"{name} left its observation space")


def check_sam() -> None:
    """A mask encoded and decoded."""
    import numpy as np
    from pycocotools import mask

    square = np.zeros((4, 5), np.uint8, order="F")
    square[1:3, 2:4] = 1
    expect((mask.decode(mask.encode(square)) == square).all(), "a mask came back changed")


def check_reasoning() -> None:
    """A tokenizer built and used."""
    import tokenizers
    import torch
    import transformers

    words = tokenizers.models.WordLevel({"1": 0, "+": 1, "?": 2}, unk_token="?")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), unk_token="?")
    tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ids = tokenizer("1 + 1", return_tensors="pt")["input_ids"]
    expect(ids.tolist() == [[0, 1, 0]], f"'1 + 1' became {ids.tolist()}")
    size: Any = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    size |= dict(num_attention_heads=1, num_key_value_heads=1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        logits = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=3, **size))(ids).logits
    expect(logits.shape == (1, 3, 3) and logits.isfinite().all(), "a tiny language model gave no logits")


def check_studio() -> None:
    """A web application that answers."""
    import python_multipart  # noqa: F401
    import uvicorn
    from fastapi import FastAPI, Form

    def echo(word: Annotated[str, Form()]) -> str:
        return word

    app = FastAPI()
    app.post("/echo")(echo)
    uvicorn.Config(app, log_config=None).load()
    expect("/echo" in app.openapi()["paths"], "a page was not found")


def imports(*modules: str):
    """A check that only imports."""
    return lambda: [importlib.import_module(module) for module in modules] and None


# part, the extra that brings it ("" for the core), the packages it needs, the check
PARTS: list[tuple] = [
    ("torch", "", ("torch", "numpy"), check_torch),
    ("models", "", ("safetensors", "huggingface_hub"), check_models),
    ("accelerate", "", ("accelerate",), imports("accelerate")),
    ("tyro", "", ("tyro",), check_tyro),
    ("jaxtyping", "", ("jaxtyping",), imports("jaxtyping")),
    ("pictures", "", ("matplotlib", "pillow"), check_pictures),
    ("tensorboard", "", ("tensorboardX",), check_tensorboard),
    ("control", "control", ("gymnasium", "mujoco"), check_control),
    ("sam", "sam", ("pycocotools",), check_sam),
    ("reasoning", "reasoning", ("transformers", "tokenizers"), check_reasoning),
    ("studio", "studio", ("fastapi", "uvicorn", "python-multipart"), check_studio),
    ("ray", "ray", ("ray",), imports("ray")),
    ("bench", "bench", ("scikit-learn", "scipy"), imports("sklearn.metrics", "scipy.stats")),
    ("dev", "dev", ("pytest", "hypothesis", "beartype"), imports("pytest", "hypothesis", "beartype")),
]


def version(package: str) -> str | None:
    """Version of an installed package."""
    return next((found.version for found in importlib.metadata.distributions(name=package)), None)


def examine(part: str, extra: str, packages: tuple[str, ...], check) -> dict[str, Any]:
    """One part tried; its status is `ok`, `missing: …` or `broken: …`."""
    versions = {package: version(package) for package in packages}
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            check()
        status = "ok"
    except (Exception, SystemExit) as error:
        if isinstance(error, ImportError) and None in versions.values():
            status = f"missing: pip install '{f'ptheta[{extra}]' if extra else 'ptheta'}'"
        else:
            status = tidy(f"broken: {type(error).__name__}: {' '.join(str(error).split())}")[:300]
    return dict(part=part, extra=extra, status=status, versions=versions, seconds=round(time.perf_counter() - start, 2))


def tidy(text: str) -> str:
    """`text` with the home folder written as ~."""
    home = os.path.expanduser("~")
    paths = "|".join(re.escape(path) for path in {home, os.path.realpath(home)} - {"/"})
    return re.sub(rf"({paths})(?![\w.-])", "~", text) if paths else text


def folder(path: Path) -> str:
    """Room and permission of a folder, or of the nearest one above it that exists."""
    there = next(p for p in [path, *path.absolute().parents] if os.path.isdir(p))
    writable = "writable" if os.access(there, os.W_OK | os.X_OK) else "not writable"
    free = shutil.disk_usage(there).free / 2**30
    return f"{path}{'' if there == path else ', not there yet'}: {writable}, {free:.1f} GiB free"


def machine() -> dict[str, str]:
    """What can be said without importing anything else."""
    from ptheta import __version__
    from ptheta.data.fetch import cache_folder, data_folder

    checkout, git = Path(__file__).parents[1], ""
    describe = ["git", f"--git-dir={checkout}/.git", f"--work-tree={checkout}", "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = subprocess.check_output(describe, text=True, stderr=subprocess.DEVNULL, timeout=10).strip()
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.*)$", cpu, re.M)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", cpu, re.M)
    notable = {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16"}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "all"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    facts = {
        "ptheta": f"{__version__}{f' (git {git})' if git else ''}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu": f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores, {usable} usable",
        "instructions": " ".join(sorted(notable & set(flags[1].split()))) if flags else "unknown",
        "memory": f"{memory / 2**30:.1f} GiB",
        "cache": folder(cache_folder()),
        "PTHETA_DATA": folder(mine) if (mine := data_folder()) else "not set",
    }
    return {key: tidy(value) for key, value in facts.items()}


def seen_by_torch() -> dict[str, str]:
    """What PyTorch says of devices and threads."""
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpu = "; ".join(f"{d.name}, {d.total_memory / 2**30:.1f} GiB, compute {d.major}.{d.minor}" for d in devices)
    if not gpu and torch.accelerator.is_available():
        gpu = str(torch.accelerator.current_accelerator())
    if not gpu and os.path.exists("/proc/driver/nvidia/version"):
        gpu = "none that this torch can use, though an NVIDIA driver is loaded"
    kernels = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return {"kernels": kernels, "gpu": gpu or "none", "cuda": torch.version.cuda or "none"}


def doctor(json: bool = False) -> int:
    """Print the report, as text or as one JSON object; 1 if the core lacks a part or any part is broken, else 0."""
    show = (lambda *_, **__: None) if json else functools.partial(print, flush=True)
    facts, seen, found = machine(), {}, []
    show("\n".join(f"{key:<14}{value}" for key, value in facts.items()))
    for part in PARTS:
        show(f"{part[0]:<14}", end="")
        found.append(result := examine(*part))
        versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items() if number)
        show(result["status"], versions, f"{result['seconds']:.2f} s", sep="  " if versions else " ")
    with contextlib.suppress(Exception):  # a torch that does not work was reported above
        seen = seen_by_torch()
    show("\n".join(f"{key:<14}{value}" for key, value in seen.items()))
    bad = [p["part"] for p in found if p["status"].startswith("broken" if p["extra"] else ("broken", "missing"))]
    show(f"not in order: {', '.join(bad)}" if bad else "all that is installed works")
    if json:
        print(json_format.dumps({**facts, **seen, "parts": found, "ok": not bad}, indent=2))
    return 1 if bad else 0
