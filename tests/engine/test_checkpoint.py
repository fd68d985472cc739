"""Whatever happens to a checkpoint, what is loaded is what was saved, or nothing."""

import json
import os
import pickle
import resource
import shutil
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.engine import checkpoint
from ptheta.engine.errors import InputError

STATE = {
    "method": {"step": 7, "model": {"W": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}, "note": None},
    "best": float("inf"), "kept": [1, 2], "empty": {},
}  # fmt: skip


def same(a, b) -> bool:
    """Equality of nested states: tensors bit for bit, with dtype and shape."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and a == b


def of_step(step: int) -> dict:
    return {"W": torch.full((64,), float(step)), "step": step}


def fill(folder, *steps):
    for step in steps:
        checkpoint.save(folder, step, of_step(step), keep={*steps})


def files(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.sampled_from([
        lambda: torch.zeros(0), lambda: torch.tensor(1.5), lambda: torch.arange(4), lambda: torch.tensor([True, False]),
        lambda: torch.eye(2, dtype=torch.float64), lambda: torch.ones(3, dtype=torch.bfloat16),
        lambda: torch.arange(6).view(2, 3).t(),
    ]).map(lambda make: make()),
)  # fmt: skip
names = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(
    state=st.dictionaries(names, st.recursive(leaves, lambda s: st.dictionaries(names, s, max_size=3), max_leaves=6))
)
def test_any_state_comes_back_as_it_was(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    assert same(checkpoint.load(checkpoint.save(folder, 3, state)), state)


def test_a_checkpoint_is_safetensors_and_json_and_readable_by_all(tmp_path):
    path = checkpoint.save(tmp_path, 12, STATE)
    assert path.name == "0000000012"
    assert files(tmp_path) == ["0000000012/state.json", "0000000012/tensors.safetensors"]
    json.loads((path / "state.json").read_text())
    modes = {p.stat().st_mode & 0o777 for p in path.iterdir()}
    assert len(modes) == 1, "files of one checkpoint may be read by different people"


def test_a_key_with_a_slash_is_refused(tmp_path):
    with pytest.raises(KeyError, match="slash"):
        checkpoint.save(tmp_path, 1, {"a/b": torch.zeros(1)})


def test_the_newest_is_loaded_and_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest(tmp_path / "nowhere") is None
    fill(tmp_path, 5, 20, 100)
    step, state = checkpoint.newest(tmp_path)
    assert step == 100 and same(state, of_step(100))


def test_the_one_before_the_last_is_kept_for_the_case_that_the_last_breaks(tmp_path):
    for step in (10, 20, 30, 40):
        checkpoint.save(tmp_path, step, of_step(step), keep={10})
    assert sorted(s for s, _ in checkpoint.steps(tmp_path)) == [10, 30, 40]


# ---------------------------------------------------------------- broken files


def cut(path, share):
    with open(path, "rb+") as file:
        file.truncate(int(path.stat().st_size * share))


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_truncated_checkpoint_is_passed_over_and_said_so(tmp_path, capsys, name, share):
    fill(tmp_path, 10, 20)
    cut(tmp_path / "0000000020" / name, share)
    step, state = checkpoint.newest(tmp_path)
    assert step == 10 and same(state, of_step(10))
    said = capsys.readouterr().err
    assert said.startswith("ptheta: passed over a checkpoint: ") and "0000000020" in said and said.count("\n") == 1


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_checkpoint_with_a_missing_file_is_passed_over(tmp_path, capsys, name):
    fill(tmp_path, 10, 20)
    (tmp_path / "0000000020" / name).unlink()
    assert checkpoint.newest(tmp_path)[0] == 10
    assert "0000000020" in capsys.readouterr().err


@settings(max_examples=100, deadline=None)
@given(
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    name=st.sampled_from(["tensors.safetensors", "state.json"]),
)
def test_one_flipped_bit_is_never_loaded_as_something_else(tmp_path_factory, where, bit, name):
    path = checkpoint.save(tmp_path_factory.mktemp("bit"), 1, STATE)
    content = bytearray((path / name).read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    (path / name).write_bytes(content)
    with pytest.raises(InputError):
        checkpoint.load(path)


def test_a_half_written_checkpoint_is_neither_loaded_nor_left_lying(tmp_path, capsys):
    fill(tmp_path, 10)
    shutil.copytree(tmp_path / "0000000010", tmp_path / ".part-0000000020")
    assert checkpoint.newest(tmp_path)[0] == 10
    assert capsys.readouterr().err == ""
    fill(tmp_path, 30)
    assert not list(tmp_path.glob(".part-*"))


def test_all_broken_is_one_line_that_says_what_to_do(tmp_path, capsys):
    fill(tmp_path, 10, 20)
    for path in tmp_path.glob("*/state.json"):
        cut(path, 0.5)
    with pytest.raises(InputError, match=r"^no checkpoint in .* is whole; .*--out\.$"):
        checkpoint.newest(tmp_path)
    assert capsys.readouterr().err.count("passed over") == 2


def rewrite(path, **changes):
    """The checkpoint with another inner state and right checksums, as a later version might have written it."""
    import hashlib

    inner = json.loads(json.loads((path / "state.json").read_text())["body"])
    inner.update(changes, tensors=checkpoint.sha256(path / "tensors.safetensors"))
    body = json.dumps(inner)
    (path / "state.json").write_text(json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body}))


def test_a_newer_format_is_refused_with_the_fix(tmp_path):
    path = checkpoint.save(tmp_path, 1, STATE)
    rewrite(path, format=checkpoint.FORMAT + 1)
    with pytest.raises(InputError, match="format 2; this ptheta reads up to 1: update ptheta"):
        checkpoint.load(path)


class Evil:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_pickle_in_place_of_the_tensors_is_refused_and_not_run(tmp_path):
    path = checkpoint.save(tmp_path / "c", 1, STATE)
    (path / "tensors.safetensors").write_bytes(pickle.dumps(Evil(tmp_path / "run")))
    rewrite(path)
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(path)
    assert not (tmp_path / "run").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "run")))
    assert (tmp_path / "run").exists(), "the pickle would not have done anything anyway"


# ---------------------------------------------------------------- writing


OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree"}


def test_dying_at_any_file_operation_leaves_the_old_or_the_new(tmp_path):
    """A child process dies at its first, second, … operation on a file until one lives to the end of `save`."""
    died = 0
    while True:
        folder = tmp_path / str(died)
        fill(folder, 10)
        if (child := os.fork()) == 0:
            left = iter(range(died))

            def die(event, args, left=left):
                if event in OPERATIONS and next(left, None) is None:
                    os._exit(9)

            sys.addaudithook(die)
            checkpoint.save(folder, 20, of_step(20))
            checkpoint.save(folder, 30, of_step(30))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        step, state = checkpoint.newest(folder)
        assert step in (10, 20, 30) and same(state, of_step(step))
        if code == 0:
            break
        assert code == 9
        died += 1
    assert step == 30 and died > 15


def test_a_full_disk_is_told_and_leaves_the_one_before(tmp_path):
    fill(tmp_path, 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, 20_000):  # nothing fits; not even the state; the tensors do not
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(
                InputError, match="step 20 .* could not be written: .*[Ff]ile too large.* make room, then resume"
            ):
                checkpoint.save(tmp_path, 20, {"W": torch.zeros(100_000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert files(tmp_path) == ["0000000010/state.json", "0000000010/tensors.safetensors"]
        assert same(checkpoint.load(tmp_path / "0000000010"), of_step(10))


def test_a_folder_that_cannot_be_made_is_told_and_no_defect(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="could not be written"):
        checkpoint.save(tmp_path / "file" / "checkpoints", 1, STATE)


# ---------------------------------------------------------------- optimisers


class Net(torch.nn.Module):
    """Two parameters that learn differently."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.full((2,), 2.0))

    def learn(self, optimizer, times):
        for _ in range(times):
            (self.a.square().sum() + self.b.pow(4).sum()).backward()
            optimizer.step()
            optimizer.zero_grad()


def test_an_optimiser_goes_on_bit_for_bit_in_any_order_of_its_parameters(tmp_path):
    one, other = Net(), Net()
    adam = torch.optim.AdamW([one.a, one.b], lr=0.1)
    one.learn(adam, 5)
    state = {"net": one.state_dict(), "adam": checkpoint.optimizer_state(one, adam)}
    state = checkpoint.load(checkpoint.save(tmp_path, 5, state))
    other.load_state_dict(state["net"])
    turned = torch.optim.AdamW([other.b, other.a], lr=0.1)
    checkpoint.load_optimizer_state(other, turned, state["adam"])
    one.learn(adam, 5)
    other.learn(turned, 5)
    assert same(dict(one.state_dict()), dict(other.state_dict()))
    fresh = Net()
    fresh.load_state_dict(state["net"])
    fresh.learn(torch.optim.AdamW([fresh.b, fresh.a], lr=0.1), 5)
    assert not same(dict(one.state_dict()), dict(fresh.state_dict())), "the state would not have mattered"
