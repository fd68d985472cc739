"""The Python interface: `train`, `load`, `list`, `evaluate`. `import ptheta` reaches them lazily."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError, UsageError, unknown
from ptheta.engine.options import Options
from ptheta.engine.run import Run, last_path, new_path
from ptheta.methods import ABOUT, METHODS


def list() -> dict[str, str]:  # noqa: A001
    """The catalogue: {method: what it is}."""
    return dict(ABOUT)


def method(name: str) -> Any:
    """The module of a method: its `Config`, `Model` and `Method`. UsageError for an unknown name."""
    if name not in METHODS:
        raise unknown("method", name, METHODS, "`ptheta list` describes them.")
    return importlib.import_module(METHODS[name])


def train(name: str, data: Any = None, command: str | None = None, **options: Any) -> Run:
    r"""Train a method and return its Run.

    name: a method of `ptheta.list()`. data: a data set's name, a path, an array of shape (N, n), or a BinaryData or
    PictureData; what the method names by itself, if None.
    options: the run's options (`steps`, `seed`, `out`, `resume`, …, see `ptheta.Options`) and the fields of the
    method's Config.

    Raises UsageError for an unknown name or an impossible value, InputError for unusable data, a loss that is
    not finite, or a full disk.
    """
    module = method(name)
    run_fields = {f.name for f in dataclasses.fields(Options)}
    config_fields = {f.name for f in dataclasses.fields(module.Config)}
    for field in options:
        if field not in run_fields | config_fields:
            raise unknown("field", field, run_fields | config_fields, f"`ptheta train {name} --help` describes them.")
    chosen = Options(
        **{k: v for k, v in options.items() if k in run_fields},
        data=data if data is None or isinstance(data, str) else str_of(data),
    )
    given = {k: v for k, v in options.items() if k in config_fields}
    return run_method(name, data, chosen, given, command)


def str_of(data: Any) -> str:
    """How data given as an object are called in config.json."""
    if isinstance(data, Path):
        return str(data)
    name = getattr(data, "name", None)  # of a BinaryData; a tensor has a `name` that is None
    return name if isinstance(name, str) else f"{type(data).__name__} in memory"


def run_method(name: str, data: Any, options: Options, given: dict[str, Any], command: str | None) -> Run:
    """Create or reopen the run, build the method, and fit it. `given`: the Config fields that the user set."""
    from ptheta.engine.fit import fit
    from ptheta.engine.hardware import flushed_denormals

    with flushed_denormals():
        learner, observations, run, options, hardware = opened(name, data, options, given, command)
        try:
            fit(learner, observations, run, options, hardware)
        finally:
            run.close()
    return run


def opened(name: str, data: Any, options: Options, given: dict[str, Any], command: str | None) -> tuple[Any, ...]:
    """All that `fit` takes: the method, its data, its run, which is locked, options and hardware."""
    module = method(name)
    config = module.Config(**given)
    if options.env:
        if METHODS[name].split(".")[1] != "control":
            raise UsageError(f"{name} acts in no environment; drop --env, or name what to learn from with --data.")
        if options.data not in (None, options.env):
            raise UsageError(f"--env {options.env} and --data {options.data} differ; name one of them.")
        options, data = dataclasses.replace(options, data=options.env, env=None), data or options.env
    spec: str = options.data or module.Method.default_data
    stem = f"{name}-{Path(spec).name.replace(':', '-').replace(' ', '-')}-seed{options.seed}"
    out = Path(options.out) if options.out else (last_path(stem) if options.resume else new_path(stem))
    run = Run.open(out) if options.resume and (out / "config.json").exists() else None
    if options.resume and run is None and options.out is None:
        raise InputError(f"{out} holds no run to resume.")
    if run:
        config, options = reconcile(run, name, options, given)
        data = options.data if data is None or isinstance(data, str) else data
    else:
        options, data = dataclasses.replace(options, data=spec), spec if data is None else data
    from ptheta.engine.hardware import detect

    hardware = detect(options.device, options.precision, options.threads)
    observations = module.Method.open_data(data, options.size, options.threshold, options.skip_unreadable)
    if run and run.about["data"]["fingerprint"] != observations.fingerprint():
        raise InputError(
            f"{out} was trained on other data ({run.about['data']['spec']}); resume it on the same, or start anew."
        )
    if words := getattr(config, "words", ""):
        observations = observations.spoken(load(words))
    learner = module.Method(config, observations, options.seed, hardware, options.steps or module.Method.steps)
    if options.init and not (run and any(checkpoint.steps(run.checkpoints))):
        learner.start_from(load(options.init))
    if run is None and hardware.main:
        about = {
            "method": name, "seed": options.seed, "config": config.to_dict(), "options": options.to_dict(),
            "data": {"spec": options.data, "size": options.size, "threshold": options.threshold,
                     "skip_unreadable": options.skip_unreadable, "n": observations.n, "origin": observations.origin,
                     "fingerprint": observations.fingerprint()},
            "command": command or f"ptheta.train({name!r}, ...)",
        }  # fmt: skip
        run = Run.create(out, about)
    hardware.wait()
    run = run or Run.open(out)
    if hardware.main:
        run.lock()
        print(
            f"ptheta: {name} on {options.data} ({observations.n} variables) → {out}  [{hardware.describe()}]",
            file=sys.stderr,
        )
    return learner, observations, run, options, hardware


FREE = {"steps", "max_time", "out", "resume", "device", "threads", "keep", "patience", "save_every", "init"}


def reconcile(run: Run, name: str, options: Options, given: dict[str, Any]) -> tuple[Any, Options]:
    """The Config and Options of a run that goes on: its own, with the limits of this call.

    Raises UsageError where this call asks for something else than the run was started with.
    """
    if run.about["method"] != name:
        raise UsageError(
            f"{run.path} is a run of {run.about['method']}, not {name}; resume it as such, or name another --out."
        )
    config = method(name).Config.from_dict(run.about["config"])
    for field, value in given.items():
        if getattr(type(config)(**given), field) != getattr(config, field):
            raise UsageError(
                f"{run.path} has {field} = {getattr(config, field)}, not {value}; drop it, or name another --out."
            )
    before, default = run.about["options"], Options()
    kept = {}
    for field in dataclasses.fields(Options):
        now = getattr(options, field.name)
        if field.name in FREE:
            kept[field.name] = before[field.name] if now == getattr(default, field.name) else now
        elif now not in (getattr(default, field.name), before[field.name]):
            raise UsageError(
                f"{run.path} has {field.name} = {before[field.name]}, not {now}; drop it, or name another --out."
            )
        else:
            kept[field.name] = before[field.name]
    return config, Options(**kept)


def load(source: str | Path | Run) -> Any:
    """The trained model of a Run, a run directory, a model folder, a Hub id or SAM's own `.pth`, in eval mode.

    Ready for `log_prob`, `sample`, `complete` and `embed`. Raises InputError if there is none or it is not whole.
    """
    from ptheta.engine import pretrained

    path = source.path if isinstance(source, Run) else Path(source)
    if foreign(path):
        from ptheta.sam.checkpoint import read

        return read(path)
    if (path / "model" / "config.json").exists():
        path = path / "model"
    elif (path / "metrics.jsonl").exists() or (path / "checkpoints").exists():
        raise InputError(f"{path} has no model yet; let it train up to its first evaluation.")
    folder = pretrained.resolve(str(source) if isinstance(source, str) and not path.exists() else path)
    config = pretrained.read_config(folder)
    if config["method"] not in METHODS:
        raise InputError(
            f"{folder} is of method {config['method']!r}; this ptheta knows {', '.join(METHODS)}: update ptheta."
        )
    return method(config["method"]).Model.from_pretrained(folder)


def foreign(path: Path) -> bool:
    """Whether it is a file of other people's weights, of which SAM's are read."""
    return path.suffix in (".pth", ".safetensors") and path.is_file()


def room(source: str) -> str:
    """The room of the method that a run directory, model folder or Hub id is of: "density", "selfsup", …; "" if it
    says nothing of the kind."""
    if found := room_here(source):
        return found
    if source.count("/") == 1 and not Path(source).exists():  # a Hub id, or a mistake that `load` will tell of
        model = load(source)
        return METHODS[model.name].split(".")[1]
    return ""


def room_here(source: str) -> str:
    """The same of a run directory, model folder or SAM's own file; "" of what is none."""
    if foreign(Path(source)):
        return "sam"
    for path in (Path(source) / "model" / "config.json", Path(source) / "config.json"):
        try:
            name = json.loads(path.read_text())["method"]
            return METHODS[name].split(".")[1] if name in METHODS else ""
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return ""


def data_of(run: Run, data: Any = None) -> Any:
    """The observations a run was trained on, or others opened in the same way."""
    about = run.about["data"]
    return method(run.about["method"]).Method.open_data(
        data if data is not None else about["spec"], about["size"], about["threshold"],
        about.get("skip_unreadable", False),
    )  # fmt: skip


def open_data(model: Any, data: Any) -> Any:
    """Observations for a model that was loaded: opened as its method opens them, pictures in the model's size."""
    default, shape = Options(), getattr(model, "shape", None)
    size = model.size if hasattr(model, "size") else min(shape[-2:]) if shape else default.size
    return method(model.name).Method.open_data(data, size, default.threshold)


def shell(argv: Any) -> str:
    """The command line that was typed, to be typed again."""
    return shlex.join(["ptheta", *argv])
