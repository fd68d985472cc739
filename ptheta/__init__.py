"""ptheta: every system is a conditional distribution p_θ(y | c) that a machine learns."""

__version__ = "0.1.0"

_WHERE = {
    "train": "ptheta.api",
    "load": "ptheta.api",
    "list": "ptheta.api",
    "Run": "ptheta.engine.run",
    "Options": "ptheta.engine.options",
    "UsageError": "ptheta.engine.errors",
    "InputError": "ptheta.engine.errors",
}
__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"ptheta has no {name!r}; it has {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__():
    return __all__
