"""Command lines run in this process, and what each kind of mistake must look like."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from ptheta import cli


def run(*argv) -> tuple[int, str, str]:
    """A command in this process: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in argv])
    return left.value.code, out.getvalue(), err.getvalue()


def done(*argv) -> list[str]:
    """The lines that a command prints, which succeeds."""
    code, out, err = run(*argv)
    assert code == 0, err
    return out.splitlines()


def files(folder=".") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.name != ".lock")


def refused(code: int, says: str, *argv) -> None:
    """One line on stderr and an exit code, no result, no traceback, no file."""
    before = files()
    got, out, err = run(*argv)
    assert got == code, err
    assert re.fullmatch(r"ptheta: [^\n]*\n", err), err
    assert re.search(says, err), err
    assert out == "" and files() == before
