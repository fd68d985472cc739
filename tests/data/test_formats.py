"""Files of every format, whole and damaged."""

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import X, all_rows, idx, same_rows, text, write

from ptheta.data.binary import load
from ptheta.data.formats import _fixed_width, read_bytes, read_idx, read_text
from ptheta.engine.errors import InputError

pytestmark = pytest.mark.usefixtures("alone")

TEXTS = {
    "comma": text(X),
    "semicolon": text(X, ";"),
    "tab": text(X, "\t"),
    "space": text(X, " "),
    "spaces": text(X, "  ", " \n"),
    "comma and space": text(X, ", "),
    "windows": text(X, ",", "\r\n"),
    "old mac": text(X, ",", "\r"),
    "byte order mark": "\ufeff" + text(X),
    "no last newline": text(X).rstrip("\n"),
    "blank lines": "\n" + text(X).replace("\n", "\n\n", 7) + "\n \n",
    "floats": text(X.astype(float)),
    "scientific": text(X).replace("1", "one").replace("0", "0.00e+00").replace("one", "1.00e+00"),
    "booleans": text(X.astype(bool)),
    "quoted": text(X).replace("1", '"1"'),
}
HEADERS = {
    "names": "a,b,c,d,e,f\n" + text(X),
    "names of another length": "one column,another\n" + text(X),
    "quoted names": '"a","b 1","c","d","e","f"\r\n' + text(X, ",", "\r\n"),
    "names before floats": "a,b,c,d,e,f\n" + text(X.astype(float)),
    "from 0": "0,1,2,3,4,5\n" + text(X),
    "from 1": "1;2;3;4;5;6\n" + text(X, ";"),
    "a comment": "# made by hand\n" + text(X, " "),
}


@pytest.mark.parametrize("suffix", [".csv", ".data", ".amat", ".txt", ".csv.gz", ".CSV"])
@pytest.mark.parametrize("kind", TEXTS)
def test_text_of_every_kind_gives_the_same_rows(tmp_path, kind, suffix):
    path = write(tmp_path / f"a{suffix}", TEXTS[kind])
    values, header = read_text(path)
    assert np.array_equal(values, X) and values.dtype == np.uint8 and not header
    if kind == "comma":
        data = load(str(path))
        assert (data.name, data.n, data.shape, data.labels("train")) == (str(path), 6, None, None)
        assert data.splits == ("train", "valid", "test") and "header" not in data.origin
        assert [len(data.split(split)) for split in data.splits] == [47, 5, 5]
        assert same_rows(all_rows(data), X) and "80/10/10 by a fixed permutation (seed 0)" in data.origin


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_line_is_skipped_and_told(tmp_path, kind):
    path = write(tmp_path / "a.csv", HEADERS[kind])
    values, header = read_text(path)
    assert header and np.array_equal(values, X) and "header line skipped" in load(path).origin


def test_a_single_column_and_a_single_row(tmp_path):
    assert read_text(write(tmp_path / "a.csv", "0\n1\n1\n"))[0].tolist() == [[0], [1], [1]]
    assert read_text(write(tmp_path / "b.csv", "label\n0\n1"))[0].tolist() == [[0], [1]]
    assert read_text(write(tmp_path / "c.csv", "0,1,1"))[0].tolist() == [[0, 1, 1]]
    assert read_text(write(tmp_path / "d.csv", "1"))[0].tolist() == [[1]]
    first = read_text(write(tmp_path / "e.csv", "0.0,1.0\n1.0,1.0"))[0]
    assert first.tolist() == [[0, 1], [1, 1]], "a row that could count two columns is a row"


@pytest.mark.parametrize("kind", ["comma", "semicolon", "tab", "space", "no last newline"])
def test_regular_text_is_read_at_once(kind):
    values = _fixed_width(TEXTS[kind].encode())  # None would mean line by line, which takes far longer
    assert values is not None and np.array_equal(values, X)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; at least one row"),
        ("\n \n", "is empty; at least one row"),
        ("a,b,c\n", "is empty but for a header line"),
        ("0,1\n0,2\n", "line 2, column 2 is '2'; allowed are 0 and 1"),
        ("0,1\n0,nan\n", "line 2, column 2 is 'nan'; allowed"),
        ("nan,1\n0,1\n", "line 1, column 1 is 'nan'"),
        ("0,1\n\n,1\n", "line 3, column 1 is empty"),
        ("0,1\n1,0.5\n", "line 2, column 2 is '0.5'"),
        ("0,1\n1,-1\n", "line 2, column 2 is '-1'"),
        ("0,1\n1,yes\n", "line 2, column 2 is 'yes'"),
        ("0,yes\n1,1\n", "line 1, column 2 is 'yes'"),
        ("a,b\nc,d\n", "line 2, column 1 is 'c'"),
        ("0,1,0\n1,1\n0,1,1\n", "line 2 has 2 values and line 1 has 3; every line"),
        ("a,b\n0,1\n1,1,1\n", "line 3 has 3 values and line 2 has 2"),
        (b"\xff\xfe0\x00,\x001\x00", "not a text file in UTF-8"),
        (b"0,1\n1,\xe9\n", "not a text file in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not a text file"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".data.gz"])
def test_what_is_wrong_in_a_text_is_told_with_its_place(tmp_path, content, message, suffix):
    path = write(tmp_path / f"bad{suffix}", content)
    with pytest.raises(InputError, match=message) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_gzip_file_is_told(tmp_path):
    whole = gzip.compress(text(X).encode())
    damaged = bytearray(whole)
    damaged[20] ^= 0xFF
    for content in (whole[:-12], whole[:5], bytes(damaged), whole + b"rubbish"):
        path = tmp_path / "a.csv.gz"
        path.write_bytes(content)
        with pytest.raises(InputError, match="a.csv.gz is a truncated or corrupted gzip file"):
            load(path)
    path.write_bytes(text(X).encode())
    with pytest.raises(InputError, match="not a gzip file though its name says so"):
        load(path)
    plain = tmp_path / "compressed-without-saying.csv"
    plain.write_bytes(whole)
    assert np.array_equal(read_text(plain)[0], X)
    with pytest.raises(InputError, match="cannot be read"):
        read_bytes(tmp_path)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", ">i4", "float32", "float16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_every_type(tmp_path, dtype, order):
    np.save(tmp_path / "a.npy", np.array(X, dtype=dtype, order=order))
    packed = write(tmp_path / "b.npy.gz", (tmp_path / "a.npy").read_bytes())
    for path in (tmp_path / "a.npy", packed):
        assert same_rows(all_rows(load(path)), X)


def test_npz_with_splits_with_x_and_with_one_array(tmp_path):
    np.savez(tmp_path / "a.npz", train=X, test=X[:4], other=np.ones(3))
    data = load(tmp_path / "a.npz")
    assert data.splits == ("train", "test") and np.array_equal(data.split("train").numpy(), X)
    assert np.array_equal(data.split("test").numpy(), X[:4]) and "own splits" in data.origin
    np.savez_compressed(tmp_path / "b.npz", x=X, y=np.arange(57))
    np.savez(tmp_path / "c.npz", X)
    for name in ("b.npz", "c.npz"):
        assert load(tmp_path / name).fingerprint() == load(X).fingerprint()
    wrong: list[dict[str, Any]] = [{"a": X, "b": X}, {"valid": X}, {"valid": X, "test": X}, {}]
    for arrays in wrong:
        np.savez(tmp_path / "d.npz", **arrays)
        with pytest.raises(InputError, match="d.npz holds .*; expected 'train'"):
            load(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", train=X, valid=X[:, :5], test=X)
    with pytest.raises(InputError, match="train has 6 columns, valid has 5 columns, test has 6 columns"):
        load(tmp_path / "e.npz")


class Trap:
    path = Path()

    def __reduce__(self):
        return (os.mkdir, (str(Trap.path),))


def test_pickles_are_refused_and_not_run(tmp_path):
    Trap.path = tmp_path / "it ran"
    objects = np.array([[Trap()]], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=objects)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "d.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npy", "b.npz", "c.npy", "d.npz"):
        with pytest.raises(InputError, match=f"{name} holds pickled objects"):
            load(tmp_path / name)
    assert not Trap.path.exists()


def test_damaged_numpy_files_are_told(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.savez_compressed(tmp_path / "a.npz", x=np.tile(X, (50, 1)))
    for name in ("a.npy", "a.npz"):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 5, 60, len(whole) - 40):
            (tmp_path / f"cut{name}").write_bytes(whole[:length])
            with pytest.raises(InputError, match=f"cut{name} (is empty|is truncated or corrupted|is not)"):
                load(tmp_path / f"cut{name}")
    (tmp_path / "text.npy").write_text("0,1")
    with pytest.raises(InputError, match="not an .npy file; save it with"):
        load(tmp_path / "text.npy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (idx(np.zeros((3, 2, 2)))[:-1], "truncated or corrupted: it holds 11 of 12 bytes"),
        (idx(np.zeros((3, 2, 2))) + b"x", "holds 13 of 12 bytes"),
        (idx(np.zeros((3, 2, 3))), r"shape \(3, 2, 3\); expected \(3, 2, 2\)"),
        (idx(np.zeros((3, 2))), "not an idx file of bytes with 3 dimensions"),
        (idx(np.zeros((3, 2, 2)))[:9], "not an idx file"),
        (b"<html>no such page</html>", "not an idx file"),
    ],
)
def test_a_broken_idx_file_is_told(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_idx(write(tmp_path / "a-ubyte", content), (3, 2, 2))
