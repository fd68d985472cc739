"""The page of the tour: its style, its figures, its whole."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import torch

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #666; --paper: #fdfcf9; --line: #ddd8cc; }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --soft: #aaa; --paper: #16171a; --line: #33353b; } }
body { font: 17px/1.55 Georgia, 'Times New Roman', serif; color: var(--ink); background: var(--paper);
       max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 2.1rem; line-height: 1.15; margin: 0 0 .3rem; } h2 { margin: 2.6rem 0 .4rem; font-size: 1.35rem; }
p.lead { color: var(--soft); font-size: 1.12rem; margin-top: 0; }
figure { margin: 1.2rem 0; } figcaption { color: var(--soft); font-size: .92rem; margin-top: .4rem; }
img { max-width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 8px;
      box-sizing: border-box; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font: .86rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
pre { overflow-x: auto; padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 6px; }
footer { margin-top: 3rem; color: var(--soft); font-size: .9rem; }
"""


def flags(config: dict[str, Any]) -> str:
    """A Config's fields as they are typed after `ptheta train`."""
    words = [(k, " ".join(map(str, v)) if isinstance(v, tuple) else str(v)) for k, v in config.items()]
    return " ".join(f"--{k.replace('_', '-')} {v}" for k, v in words)


def image(figure: Any, caption: str) -> str:
    """A figure as a self-contained <figure>."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def document(sections: list[str], seconds: float) -> str:
    """The whole page, self-contained."""
    import platform

    import ptheta

    body = "\n".join(sections)
    machine = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    about = f"Made by ptheta {ptheta.__version__} in {seconds:.0f} s, {machine}."
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>ptheta tour</title><style>{STYLE}</style></head><body>
<h1>What a machine can learn</h1>
<p class="lead">Every system here is a conditional distribution p<sub>θ</sub>(y | c).
This page was drawn by one that has just learned.</p>
{body}
<footer>{about}</footer></body></html>
"""
