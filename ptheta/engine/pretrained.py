r"""Model folders: `model.safetensors`, `config.json` and a model card, and nothing that could run code.

Any `nn.Module` that inherits `Pretrained`, sets `name` and keeps its constructor's
arguments in `self.arguments` can be saved, loaded and pushed to the Hugging Face Hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError

FORMAT = 1
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class Pretrained(nn.Module):
    """Mixin for models. `name` is the method's name in the catalogue."""

    name: str
    arguments: dict[str, Any]

    def save_pretrained(self, folder: str | Path, about: dict[str, Any] | None = None, card: str = "") -> Path:
        """Write the model to a folder, each file replaced at once.

        `about` goes into config.json, `card` into README.md.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        config = {"format": FORMAT, "library": "ptheta", "method": self.name, "model": self.arguments, **(about or {})}
        checkpoint.replace_tensors(folder / "model.safetensors", tensors)
        checkpoint.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        checkpoint.write_text(folder / "README.md", card or f"# {self.name}\n\nA model saved by ptheta.\n")
        return folder

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> Self:
        """The model of a folder or a Hub id, in eval mode. Raises InputError if the folder is not whole."""
        folder = resolve(name_or_folder)
        config = read_config(folder)
        if config["method"] != cls.name:
            raise InputError(
                f"{folder} holds a {config['method']} model, not {cls.name}; use ptheta.load({str(folder)!r})."
            )
        return _model(cls, config, folder)

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the Hugging Face Hub; returns the URL of the commit."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))


def model_card(method: Any, tag: str, learned: str, code: str) -> str:
    """README.md of a model folder: what a method learned, from what data, by what hyperparameters, and how to use it.

    tag: The Hub's word for what the model is for.
    learned: What it is, as a sentence without its end; how long it learned, and the seed, are added.
    code: Lines of Python after the one that loads `model`.
    """
    rows = "\n".join(f"| {k} | {v} |" for k, v in method.config.to_dict().items())
    return (
        f"---\nlibrary_name: ptheta\ntags: [ptheta, {method.model.name}, {tag}]\n---\n\n"
        f"# {method.model.name} on {method.data.name}\n\n"
        f"{learned}, after {method.step:,} updates, seed {method.seed}.\n\n"
        f"Data: {method.data.origin}\n\n| hyperparameter | value |\n|---|---|\n{rows}\n\n"
        f'```python\nimport ptheta\nmodel = ptheta.load("this folder")\n{code}\n```\n'
    )


def resolve(name_or_folder: str | Path) -> Path:
    """The folder itself, or the local copy of a Hub id `owner/name`."""
    folder = Path(name_or_folder)
    return folder if folder.is_dir() else _from_hub(str(name_or_folder))


def _model(kind: Any, config: dict[str, Any], folder: Path) -> Any:
    """A `kind` built by config.json and filled from model.safetensors, in eval mode."""
    weights = folder / "model.safetensors"
    if not weights.exists():
        pickled = [p.name for p in folder.iterdir() if p.suffix in PICKLES]
        if pickled:
            raise InputError(
                f"{folder} holds {pickled[0]}, a pickled file, which could run code when it is loaded; "
                "allowed: model.safetensors. Convert it where you trust it."
            )
        raise InputError(f"{folder} has no model.safetensors; copy the whole folder that save_pretrained wrote.")
    arguments: Any = config.get("model")
    try:
        model = kind(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f'{folder / "config.json"} has an impossible "model" entry: {error}.') from error
    _fill(model, weights)
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, checked. Raises InputError."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise InputError(f"{folder} has no config.json; copy the whole folder that save_pretrained wrote.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'} cannot be read: {error}.") from error
    if not isinstance(config, dict) or config.get("library") != "ptheta" or not isinstance(config.get("method"), str):
        raise InputError(f'{folder / "config.json"} is not of a ptheta model (no "library": "ptheta" and "method").')
    if (format := config.get("format")) not in range(FORMAT + 1):
        raise InputError(f"{folder} has model format {format!r}; this ptheta reads up to {FORMAT}: update ptheta.")
    return config


def _fill(model: nn.Module, weights: Path) -> None:
    """Weights into a model; every missing, extra or misshapen key is named."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{weights} cannot be read ({error}); copy it again.") from error
    own = model.state_dict()
    faults = [f"{k} is missing" for k in own.keys() - tensors.keys()]
    faults += [f"{k} is unknown" for k in tensors.keys() - own.keys()]
    faults += [
        f"{k} has shape {tuple(tensors[k].shape)}, wanted {tuple(own[k].shape)}"
        for k in own.keys() & tensors.keys()
        if own[k].shape != tensors[k].shape
    ]
    if faults:
        raise InputError(f"{weights} does not fit its config.json: {'; '.join(sorted(faults))}.")
    if bad := [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]:
        raise InputError(f"{weights} holds values that are not finite in {', '.join(sorted(bad))}.")
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(tensors[name].dtype)
    model.load_state_dict(tensors)


def _from_hub(name: str) -> Path:
    """The local copy of a Hub model; only the files that a model folder needs are fetched."""
    import os

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(f"{name} is neither a folder nor a Hub id (owner/name).")
    from huggingface_hub import snapshot_download

    try:
        offline = os.environ.get("PTHETA_OFFLINE") == "1"
        files = ["*.safetensors", "*.json", "README.md"]
        return Path(snapshot_download(name, allow_patterns=files, local_files_only=offline))
    except Exception as error:  # the hub's client raises many kinds; all mean: not to be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name} is no folder here and could not be had from the Hugging Face Hub: {reason}"
        ) from error
