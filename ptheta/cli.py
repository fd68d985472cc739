"""The command line. It parses the command and the method's name first and imports only what these need."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ptheta.engine.errors import InputError, UsageError, unknown
from ptheta.methods import ABOUT, COMMANDS

HELP = """ptheta: learn p_θ(y | c), and use it.

  ptheta tour                         learn digits and scenes, write an illustrated page (start here)
  ptheta list                         the methods
  ptheta train METHOD [options]       learn; `ptheta train METHOD --help` lists the options
  ptheta train METHOD --seeds 0-9     several seeds at once, each a process of its own
  ptheta compare RUN... [--figure F] [--threshold X] [--json]   seeds and methods side by side, with intervals, drawn
  ptheta evaluate RUN [--split S] [--data D] [--json]   `ptheta evaluate RUN --help` tells more, by what RUN learned
  ptheta sample RUN [--count N] [--y CLASS] [--seed S] [--out FILE]
  ptheta complete RUN [--data D] [--split S] [--count N] [--hide H] [--particles P] [--seed S] [--out FILE]
  ptheta embed RUN [--data D] [--split S] [--out FILE]
  ptheta predict RUN PICTURES [--out FOLDER] [--size S]   a label for every pixel, as palette images and overlays
  ptheta play RUN [--episodes N] [--video FILE.gif|FILE.mp4] [--env ID]   a policy acts: returns, and a film of it
  ptheta neighbours RUN IMAGE [--k K] the pictures that an encoder finds nearest
  ptheta supervision RUN              supervised, unsupervised, self-supervised: what each is told and learns
  ptheta ladder [--data D]            tables, fvsbn, one MLP a conditional, nade: parameters, nats, seconds
  ptheta baselines [--data D]         independent, mixture, Chow–Liu tree, kernel: nats, seconds
  ptheta rivals [--data D] [--labelled N ...] [--runs RUN ...]
                                      naive Bayes, logistic regression, MLP beside joint models
  ptheta anomalies RUN FILE           rows that a model finds unlikely
  ptheta divergences [--out FILE]     one too-simple model fitted under each divergence, drawn
  ptheta dilation 1,2,5 [--find]       what a stack of dilated convolutions reads, its holes, drawn
  ptheta ablation [--data D] [--steps N]   one network with pooling, no dilation, repeated and hybrid rates
  ptheta score TRUTH PREDICTIONS --classes FILE   accuracy, IoU, Dice, confusion matrix of label maps
  ptheta gridworld [--policy uniform] values and policies of a grid world, exactly, drawn with arrows
  ptheta segment PICTURES --model M --point X,Y | --box L,T,R,B | --text T --words CLIP | --everything   masks
  ptheta annotate PICTURES --model M --out DIR [--simulate]   masks made with a model that learns from them
  ptheta export M FILE.onnx           the part of such a model that answers prompts, for browsers and other languages
  ptheta doctor [--json]              what works on this machine, to paste into a bug report
  ptheta --version

RUN is a run directory, a model folder, or a Hub id. Results go to stdout, progress and messages to stderr.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        code = run(argv)
    except (UsageError, InputError) as error:
        print(f"ptheta: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("ptheta: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f"ptheta: {error.filename} cannot be used: {error.strerror}; name another file or folder.", file=sys.stderr
        )
        code = 1
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command in ("-V", "--version"):
        from ptheta import __version__

        print(f"ptheta {__version__}")
        return 0
    if command in ("train", "list", "doctor") and rest in (["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    commands = {
        "list": list_methods, "train": train, **{name: use(name) for _, names in USES.values() for name in names},
        "rivals": rivals, "ablation": ablation, "annotate": annotate, "compare": compare, "doctor": doctor,
        "tour": tour,
    }  # fmt: skip
    if command in commands:
        return commands[command](rest) or 0
    if command in COMMANDS:
        import importlib

        return importlib.import_module(COMMANDS[command]).command(rest) or 0
    raise unknown("command", command, [*commands, *COMMANDS], "`ptheta --help` describes them.")


def list_methods(argv: list[str]) -> None:
    """`ptheta list [--json]`."""
    if only_json("list", argv):
        print(json.dumps(ABOUT))
        return
    for name, about in ABOUT.items():
        print(f"{name:12} {about}")


def only_json(command: str, argv: list[str]) -> bool:
    """Whether --json is among the arguments of a command that takes nothing else."""
    other = [argument for argument in argv if argument != "--json"]
    if other:
        raise UsageError(f"{command} takes only --json, not {other[0]!r}.")
    return bool(argv)


def train(argv: list[str]) -> int:
    """`ptheta train METHOD [options]`."""
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"train wants a method first; allowed: {', '.join(ABOUT)}. For example: ptheta train made")
    import contextlib
    import dataclasses
    import io
    import signal

    import tyro

    from ptheta import api
    from ptheta.engine.options import Options
    from ptheta.seeds import Several

    name = argv[0]
    module = api.method(name)
    Train = dataclasses.make_dataclass(
        "Train",
        [
            ("run", tyro.conf.OmitArgPrefixes[Options], Options()),
            ("method", tyro.conf.OmitArgPrefixes[module.Config], module.Config()),
            ("several", tyro.conf.OmitArgPrefixes[Several], Several()),
        ],
    )
    description = (module.__doc__ or "").split("\n\n")[0] + f"\n\nSteps by default: {module.Method.steps:,}."
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: Any = tyro.cli(Train, args=argv[1:], prog=f"ptheta train {name}", description=description)
    except SystemExit as left:
        error: Any = left
        while error and not isinstance(error, UsageError):
            error = error.__context__
        if error:  # of a Config: one line says it, and tyro's frame around it is left out
            raise error from None
        sys.stderr.write(said.getvalue())
        raise
    default = module.Config()
    given = {
        k: v
        for k, v in parsed.method.to_dict().items()
        if v != getattr(default, k) or f"--{k.replace('_', '-')}" in argv
    }
    if parsed.several.seeds is not None:
        from ptheta import seeds

        return seeds.train(name, argv[1:], parsed.several, parsed.run, given)

    from ptheta.engine.fit import Interrupted

    try:
        done = api.run_method(name, parsed.run.data, parsed.run, given, api.shell(["train", *argv]))
    except Interrupted as stop:
        again = "" if "--resume" in argv else " --resume"
        where = "" if parsed.run.out else f" --out {stop.out}"
        print(f"ptheta: {stop}, saved. Go on with:\n  {api.shell(['train', *argv])}{where}{again}", file=sys.stderr)
        return 130 if stop.signum == signal.SIGINT else 143
    summary(done)
    return 0


def summary(done: Any) -> None:
    """After training: the best figure, and what to do next."""
    best = min((m for m in done.metrics() if "nats" in m), key=lambda m: m["nats"], default=None)
    last = [m for m in done.metrics() if "rank_me" in m][-1:]
    labels = max((m for m in done.metrics() if "miou" in m), key=lambda m: m["miou"], default=None)
    asked = max((m for m in done.metrics() if "miou_1" in m), key=lambda m: m["miou_1"], default=None)
    acted = max((m for m in done.metrics() if "return_mean" in m), key=lambda m: m["return_mean"], default=None)
    if best:
        print(f"best {best['split']} {best['nats']:.3f} ± {best.get('nats_se', 0):.3f} nats at step {best['step']:,}")
    for m in last:
        knn = f"   neighbours {m['knn']:.3f} ± {m['knn_se']:.3f}" if "knn" in m else ""
        print(f"last {m['split']} loss {m['loss']:.4g}   RankMe {m['rank_me']:.1f}   spread {m['spread']:.2f}{knn}")
    if labels:
        error = f" ± {labels['miou_se']:.4f}" if "miou_se" in labels else ""
        print(
            f"best {labels['split']} MIoU {labels['miou']:.4f}{error}   "
            f"PA {labels['pa']:.4f}   MPA {labels['mpa']:.4f} at step {labels['step']:,}"
        )
    if acted:
        error = f" ± {acted['return_mean_se']:.4g}" if "return_mean_se" in acted else ""
        print(f"best {acted['split']} return {acted['return_mean']:.6g}{error} at step {acted['step']:,}")
    if asked:
        error = f" ± {asked['miou_1_se']:.4f}" if "miou_1_se" in asked else ""
        figures = f"{asked['miou_1']:.4f}{error} after a click (best of three), {asked['miou_5']:.4f} after five"
        print(f"best {asked['split']} mean IoU {figures}, at step {asked['step']:,}")
    print(f"{done.path}", flush=True)
    uses = ("evaluate", "predict") if labels else ("embed", "evaluate") if last else ("sample", "evaluate", "complete")
    uses = ("evaluate", "play") if acted else ("evaluate",) if asked else uses
    named = {"predict": " PICTURES", "play": f" --video {done.path}/play.gif"}
    print("next: " + "   ".join(f"ptheta {use} {done.path}{named.get(use, '')}" for use in uses), file=sys.stderr)
    if asked:
        print(f"      ptheta segment PICTURE --model {done.path} --point X,Y", file=sys.stderr)


def options_of(argv: list[str], function: Any, prog: str) -> Any:
    """Parse `argv` by the signature and docstring of `function`, and call it."""
    import tyro

    return tyro.cli(function, args=argv, prog=f"ptheta {prog}")


def use(name: str) -> Any:
    """The command `ptheta NAME RUN …` of what a person does with what has been trained."""
    return lambda argv: options_of(argv, what_use(argv, name), name)


USES = {
    "density": ("ptheta.use", ("evaluate", "sample", "complete", "embed", "anomalies")),
    "selfsup": ("ptheta.features", ("evaluate", "embed", "complete", "neighbours", "supervision")),
    "segmentation": ("ptheta.labelling", ("evaluate", "predict")),
    "sam": ("ptheta.prompting", ("evaluate",)),
    "control": ("ptheta.playing", ("evaluate", "play")),
}


def what_use(argv: list[str], name: str) -> Any:
    """The function of that name for the run or model folder among the arguments, by its room; for the Hub id that comes
    first, if none of them is here.

    Raises UsageError where the room has none. Of what is no run, the function itself will tell.
    """
    import importlib

    from ptheta import api

    words = [argument for argument in argv if not argument.startswith("-")]
    here = [word for word in words if api.room_here(word)]
    source = here[0] if here else words[0] if argv and not argv[0].startswith("-") else None
    room = "" if source is None else api.room(source)
    if room in USES and name not in USES[room][1]:
        raise UsageError(f"{source} is of {room} and has no {name}; allowed: {', '.join(USES[room][1])}.")
    module = USES[room or next(r for r, (_, uses) in USES.items() if name in uses)][0]
    return getattr(importlib.import_module(module), name)


def rivals(argv: list[str]) -> None:
    """`ptheta rivals`."""
    from ptheta import rivals as module

    options_of(argv, module.rivals, "rivals")


def compare(argv: list[str]) -> None:
    """`ptheta compare`."""
    from ptheta import comparison

    options_of(argv, comparison.compare, "compare")


def ablation(argv: list[str]) -> None:
    """`ptheta ablation`."""
    from ptheta import ablation as module

    options_of(argv, module.ablation, "ablation")


def annotate(argv: list[str]) -> None:
    """`ptheta annotate`."""
    from ptheta import annotation

    options_of(argv, annotation.annotate, "annotate")


def doctor(argv: list[str]) -> int:
    """`ptheta doctor [--json]`."""
    json = only_json("doctor", argv)
    from ptheta.doctor import doctor as examine

    return examine(json=json)


def tour(argv: list[str]) -> None:
    """`ptheta tour`."""
    from ptheta import tour as tour_module

    options_of(argv, tour_module.tour, "tour")
