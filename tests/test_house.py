"""Code rules: imports between modules, libraries that one module owns, lengths of files and functions, callers of public functions."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "unsilent"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module (a folder or file directly below `unsilent`) may import modules of lower levels only. BESIDE has the exceptions within a level.
LEVELS = {
    "choices": 0, "clip": 0, "config": 0, "cues": 0, "errors": 0, "files": 0, "labels": 0, "request": 0, "version": 0,
    "web": 0,
    "client": 1, "signal": 1, "media": 1, "models": 1, "metrics": 1,
    "exchange": 2, "outputs": 2, "speed": 2, "vision": 2,
    "presets": 3,
    "checkpoints": 4,
    "codec": 5, "published": 5, "data": 5,
    "generation": 6, "train": 6,
    "pipeline": 7,
    "batch": 8, "editing": 8, "loading": 8,
    "jobs": 9,
    "evaluation": 10,
    "server": 11,
    "cli": 12,
    "__main__": 13,
}  # fmt: skip
BESIDE = {
    ("clip", "config"), ("clip", "errors"), ("config", "errors"), ("files", "errors"), ("labels", "errors"),
    ("choices", "errors"), ("cues", "config"), ("cues", "errors"), ("request", "choices"), ("request", "config"), ("request", "cues"),
    ("request", "errors"), ("request", "labels"),
    ("models", "signal"),  # a vocoder refines its waveform against the mel
}  # fmt: skip
# Libraries that only one module may import.
OWNERS = {
    "av": "media", "cv2": "vision", "lightning_fabric": "train", "ray": "jobs", "typer": "cli",
    "safetensors": "checkpoints", "triton": "speed", "fastapi": "server", "starlette": "server", "uvicorn": "server",
    "mido": "exchange", "opentimelineio": "exchange",
}  # fmt: skip

CALLED_BY_FRAMEWORKS = {"model_post_init", "root", "forward"}  # pydantic, typer, torch
MARKED_BY_FRAMEWORKS = ("command", "app.get(", "app.put(", "app.post(", "app.delete(")  # decorators of typer and FastAPI

SOFT_LINES, HARD_LINES, PIPELINE_LINES, HARD_FUNCTION_LINES = 400, 600, 200, 100


def part_of(module: str) -> str:
    """`unsilent.signal.mel` → `signal`; the package itself → its own name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def imports(path: Path) -> list[tuple[int, str]]:
    """All imported modules of a file with their lines, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; say the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "unsilent" else [node.module]
            found += [(node.lineno, name) for name in names]
    return found


def part_of_file(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if parts[0] != "__init__" else "unsilent"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_lower_levels_only(path):
    here = part_of_file(path)
    if here == "unsilent":
        return  # the package's `__init__` may import every module
    assert here in LEVELS, f"{path} is in a module that has no level; give it one"
    for line, module in imports(path):
        if module.split(".")[0] != "unsilent":
            continue
        there = part_of(module)
        allowed = there == here or LEVELS[there] < LEVELS[here] or (here, there) in BESIDE
        assert allowed, f"{path.relative_to(PACKAGE)}:{line}: {here} (level {LEVELS[here]}) imports {there} (level {LEVELS[there]})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_are_imported_by_their_owners_only(path):
    for line, module in imports(path):
        owner = OWNERS.get(module.split(".")[0])
        assert owner in (None, part_of_file(path)), f"{path.relative_to(PACKAGE)}:{line}: only {owner} may import {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (PIPELINE_LINES if path.name == "pipeline.py" else HARD_LINES), f"{path} has {lines} lines"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= HARD_FUNCTION_LINES, f"{path}:{node.lineno}: {node.name} has {length} lines"


def test_nearly_all_files_are_short():
    """At most one file in twenty may exceed the soft limit."""
    long = [path.name for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > SOFT_LINES]
    assert len(long) <= len(FILES) // 20, long


def test_no_test_file_is_too_long():
    long = [path.name for path in Path(__file__).parent.rglob("*.py") if len(path.read_text(encoding="utf-8").splitlines()) > HARD_LINES]
    assert not long


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_unsafe_functions_are_not_called(path):
    """No unpickling without `weights_only=True`, no `eval` or `exec`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in ("eval", "exec", "pickle.load", "pickle.loads"), f"{path}:{node.lineno}: {name}"
        if name == "torch.load":
            safe = any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in node.keywords)
            assert safe, f"{path}:{node.lineno}: torch.load without weights_only=True"
        if name in ("np.load", "numpy.load"):
            assert not any(k.arg == "allow_pickle" for k in node.keywords), f"{path}:{node.lineno}: allow_pickle"


def test_every_exception_is_used():
    """Pairs in BESIDE and libraries in OWNERS that no file imports must be removed."""
    found = {(part_of_file(path), module) for path in FILES for _, module in imports(path)}
    pairs = {(here, part_of(module)) for here, module in found if module.startswith("unsilent.")}
    assert pairs >= BESIDE
    assert {(owner, library) for library, owner in OWNERS.items()} <= {(here, module.split(".")[0]) for here, module in found}


def test_every_public_function_has_a_caller():
    """Callers outside tests, found by name; frameworks call commands and validators."""
    folders = [PACKAGE, *(PACKAGE.parent / name for name in ("benchmarks", "runs", "demo"))]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for folder in folders for path in folder.rglob("*.py")]
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {word for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
             for word in node.value.split(".")}  # fmt: skip
    alone = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if node.name not in used | CALLED_BY_FRAMEWORKS
        and not any(name in ast.unparse(mark) for mark in node.decorator_list for name in MARKED_BY_FRAMEWORKS)
    ]
    assert not alone


LATE = {"PIL", "cv2", "fastapi", "lightning_fabric", "matplotlib", "pyarrow", "ray", "rich", "scipy", "sympy", "torch._dynamo", "triton"}


@pytest.mark.parametrize(
    ("code", "late"),
    [
        ("import unsilent", LATE | {"av", "hashlib", "numpy", "pydantic", "torch", "typer"}),
        ("from unsilent.cli.main import run; run(['--help'])", LATE | {"av", "hashlib", "numpy", "pydantic", "torch"}),
        ("import unsilent.pipeline", LATE | {"typer", "unsilent.metrics"}),
    ],
)
def test_start_imports_no_heavy_library_that_it_does_not_need(code, late):
    import subprocess
    import sys

    command = [sys.executable, "-c", f"import sys; {code}; print(*sorted(set(sys.modules) & {late}), file=sys.stderr)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr.strip() == ""


def test_loading_and_generating_do_not_import_compilers():
    """Some operations make torch import its compiler and sympy, which takes more than a second."""
    import subprocess
    import sys

    code = (
        "import sys, unsilent; unsilent.load('everyday', device='cpu').generate('demo/cat.mp4', candidates=2); "
        "print({'sympy', 'torch._dynamo', 'scipy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert found.stdout.strip() == "set()"


def test_nothing_that_is_ignored_is_tracked():
    """Such as a link to an environment, in whose place a checkout would delete the environment."""
    import subprocess

    root = PACKAGE.parent
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    command = ["git", "-C", str(root), "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
