"""The arrows of the design, read from the imports, and what every file keeps to."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ptheta
from ptheta.methods import ABOUT, COMMANDS, METHODS

ROOT = Path(ptheta.__file__).parent
FILES = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts): p for p in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
BELOW = {"engine", "data", "nets"}
TOPS = {"cli", "__main__", "api", "use", "tour", "doctor", "recipes", "studio"}
ROOMS = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()} - BELOW - TOPS
EVERY_METHOD = pytest.mark.parametrize("name", METHODS)


def place(module: str) -> str:
    """The folder or file of ptheta that a module belongs to: 'density', 'cli', '' for the package itself."""
    parts = module.removesuffix(".__init__").split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(module: str) -> set[str]:
    """The full names of everything of ptheta that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name == "ptheta" or name.startswith("ptheta.")}


def arrows(of: set[str]) -> list[tuple[str, str, str]]:
    """(module, place it is in, what it imports) of all modules in the places `of`."""
    return [(m, place(m), target) for m in TREES if place(m) in of for target in sorted(imports(m))]


def test_the_scan_sees_the_imports_that_there_are():
    assert "ptheta.density.likelihood.MaximumLikelihood" in imports("ptheta.density.made")
    assert "ptheta.engine.fit.fit" in imports("ptheta.api")  # inside a function
    assert "density" in ROOMS and "engine" not in ROOMS


def test_the_engine_knows_no_room_no_data_and_no_catalogue():
    bad = [a for a in arrows({"engine"}) if place(a[2]) not in {"engine", "", "__version__"}]
    assert not bad


@pytest.mark.parametrize(("lower", "allowed"), [("data", {"data", "engine"}), ("nets", {"nets", "data", "engine"})])
def test_data_and_nets_import_only_what_is_below(lower, allowed):
    assert not [a for a in arrows({lower}) if place(a[2]) not in allowed]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_no_other_room(room):
    assert not [a for a in arrows({room}) if place(a[2]) not in BELOW | {room}]


@EVERY_METHOD
def test_a_method_imports_no_other_method(name):
    others = [m for m in METHODS.values() if m != METHODS[name]]
    assert not [t for t in imports(METHODS[name]) for m in others if f"{t}.".startswith(f"{m}.")]


def test_what_methods_share_imports_no_method():
    studies = set(COMMANDS.values())  # they compare methods
    shared = [m for m in TREES if place(m) in ROOMS and m not in METHODS.values() and m not in studies]
    bad = [
        (m, t) for m in shared for t in imports(m) for method in METHODS.values() if f"{t}.".startswith(f"{method}.")
    ]
    assert not bad


def test_nothing_below_imports_what_the_user_sees():
    assert not [a for a in arrows(ROOMS | BELOW | {"methods"}) if place(a[2]) in TOPS]


def test_a_room_is_named_in_no_string_but_in_the_catalogue():
    """An import by name would hide from the arrows."""
    rooms = re.compile(rf"ptheta\.({'|'.join(sorted(ROOMS))})\.\w+")
    found = [
        (module, node.value)
        for module in TREES
        if place(module) in ROOMS | BELOW
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and rooms.fullmatch(node.value)
    ]
    assert not found


def test_no_file_is_called_utils_or_the_like():
    vague = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
    assert not [p for p in ROOT.rglob("*") if p.stem.strip("_") in vague]


def test_no_file_is_longer_than_400_lines():
    long = {name: n for name, path in FILES.items() if (n := len(path.read_text().splitlines())) > 400}
    assert not long


# ---------------------------------------------------------------- how fast it starts


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import ptheta", {"torch", "numpy", "tyro", "ptheta.api"}),
        (
            "from ptheta.cli import run; run(['--help']); run(['list']); run(['list', '--json'])",
            {"torch", "numpy", "tyro"},
        ),
    ],
)
def test_starting_imports_nothing_heavy(code, absent):
    code += "; import sys; print(*sorted(sys.modules), sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "ptheta" in loaded and not absent & loaded


# ---------------------------------------------------------------- what no file does


def called(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """('torch.load', node) of every call whose function is written as names with dots."""
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


@pytest.mark.parametrize("module", TREES)
def test_nothing_loaded_can_run_code(module):
    pickles = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(TREES[module]):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not pickles & {n.split(".")[0] for n in names}, f"line {node.lineno}"
    for name, call in called(TREES[module]):
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert name not in {"eval", "exec", "compile", "__import__"}, f"line {call.lineno}"
        if name == "torch.load":
            assert given.get("weights_only") == "True", f"line {call.lineno}"
        if name.split(".")[-1] == "load" and name.split(".")[0] in {"np", "numpy"}:
            assert given.get("allow_pickle") in {None, "False"}, f"line {call.lineno}"


@pytest.mark.parametrize("module", TREES)
def test_the_global_random_state_is_left_alone(module):
    own = {"Generator", "RandomState", "default_rng", "SeedSequence", "PCG64"}  # objects with a state of their own
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            assert "random" not in {a.name for a in node.names}, f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert node.module != "random", f"line {node.lineno}"
    for name, call in called(TREES[module]):
        if re.fullmatch(r"(np|numpy)\.random\.\w+", name):
            assert name.split(".")[-1] in own, f"line {call.lineno}: {name}"
        assert not re.fullmatch(r"torch\.(cuda\.|random\.)?(manual_seed(_all)?|seed|set_rng_state)", name), (
            f"line {call.lineno}"
        )
        if re.fullmatch(r"torch\.(rand|randn|randint|randperm|multinomial|bernoulli|normal)", name):
            assert "generator" in {k.arg for k in call.keywords}, f"line {call.lineno}: {name} without a generator"


# ---------------------------------------------------------------- what every file says of itself


def documented(body: list[ast.stmt]) -> dict[str, bool]:
    """{name: has a docstring} of the public functions and classes among statements."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {n.name: bool(ast.get_docstring(n)) for n in body if isinstance(n, kinds) and not n.name.startswith("_")}


@pytest.mark.parametrize("module", [m for m in TREES if ast.unparse(TREES[m])])
def test_public_functions_and_classes_have_a_docstring(module):
    bare = [name for name, has in documented(TREES[module].body).items() if not has]
    assert not bare
    assert ast.get_docstring(TREES[module]) or module.endswith("__main__"), "the module has none"


@EVERY_METHOD
def test_a_method_is_whole(name):
    tree = TREES[METHODS[name]]
    title = (ast.get_docstring(tree) or "").split("\n")[0]
    assert ABOUT.get(name), "no line in ABOUT"
    assert name.upper() in title.upper() and re.search(r"\b(19|20)\d\d\b", ast.get_docstring(tree) or ""), "no citation"
    bound = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    bound |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    assert {"Config", "Model", "Method"} <= bound


def test_the_catalogue_describes_just_the_methods_that_there_are():
    assert ABOUT.keys() == METHODS.keys()
    assert {*METHODS.values(), *COMMANDS.values()} <= FILES.keys()
    assert all(m.split(".")[-1] == name for name, m in {**METHODS, **COMMANDS}.items()), "file and name differ"


def configs() -> list[tuple[str, str, ast.ClassDef]]:
    """All dataclasses of options: by their name, or because they inherit from one."""
    classes = [(m, n) for m, tree in TREES.items() for n in tree.body if isinstance(n, ast.ClassDef)]
    named = lambda n: n.name.endswith(("Config", "Options")) or any("Config" in ast.unparse(b) for b in n.bases)  # noqa: E731
    return [(m, n.name, n) for m, n in classes if named(n)]


@pytest.mark.parametrize(("module", "name", "node"), configs(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_option_has_a_line_of_text(module, name, node):
    fields = [(i, n.target.id) for i, n in enumerate(node.body) if isinstance(n, ast.AnnAssign)]
    for i, field in fields:
        after = node.body[i + 1] if i + 1 < len(node.body) else None
        text = after.value if isinstance(after, ast.Expr) else None
        assert isinstance(text, ast.Constant) and isinstance(text.value, str), f"{name}.{field} has no docstring"
        assert text.value.strip().endswith("."), f"{name}.{field}: {text.value!r} is no sentence"


@EVERY_METHOD
def test_a_config_has_at_most_twenty_fields(name):
    import dataclasses
    import importlib

    fields = dataclasses.fields(importlib.import_module(METHODS[name]).Config)
    assert 1 <= len(fields) <= 20
