"""Names and files of results: numbered, never overwritten, whole or absent."""

from pathlib import Path

import pytest

from ptheta.engine.errors import UsageError
from ptheta.engine.results import save_whole, target


def test_names_are_numbered_where_any_of_their_files_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert target("no run", None, "fits") == Path("fits") and target(str(tmp_path), None, "fits") == tmp_path / "fits"
    Path("fits.csv").touch()
    assert target(".", None, "fits") == Path("fits-2")
    Path("fits-2.png").touch()
    assert target(".", None, "fits") == Path("fits-3")


def test_a_name_of_the_users_keeps_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert target(".", Path("new/a.png"), "") == Path("new/a") and target(".", Path("v1.5"), "") == Path("v1.5")
    Path("a.npy").write_text("mine")
    for out, message in (
        ("a", "a.npy exists; name another --out"), ("a.png", "a.npy exists"), (".", "is a folder"),
        ("..", "is a folder"), ("a.npy/b", "a.npy is no folder; name another --out"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            target(".", Path(out), "")
    assert Path("a.npy").read_text() == "mine"


def test_files_are_whole_or_absent(tmp_path, capsys):
    def fails(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        save_whole(tmp_path / "new" / "a", {".csv": lambda p: p.write_text("all"), ".npy": fails})
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.csv"]
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'a.csv'}\n"
    save_whole(tmp_path / "b", {".csv": lambda p: p.write_text("all")}, say=False)
    assert (tmp_path / "b.csv").read_text() == "all" and capsys.readouterr().out == ""


def test_a_name_that_another_process_takes_meanwhile_is_left_to_it(tmp_path):
    def slow(part):
        part.write_text("mine")
        (tmp_path / "a.csv").write_text("theirs")

    with pytest.raises(UsageError, match="was written by another process just now; name another --out"):
        save_whole(tmp_path / "a", {".csv": slow})
    assert (tmp_path / "a.csv").read_text() == "theirs" and [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_where_there_are_no_links_the_file_is_renamed(tmp_path, monkeypatch):
    def none(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr("os.link", none)
    save_whole(tmp_path / "a", {".csv": lambda p: p.write_text("all")}, say=False)
    assert (tmp_path / "a.csv").read_text() == "all" and [p.name for p in tmp_path.iterdir()] == ["a.csv"]
