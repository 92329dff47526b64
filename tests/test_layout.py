"""The rules of the house that a machine can hold: layers, imports, sizes, packaging."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each room may import the rooms named here, and itself.
LAYERS = {
    "transport": set[str](),
    "security": set[str](),
    "algorithms": set[str](),
    "client": {"transport", "algorithms.tensors", "algorithms.errors"},
    "actors.runtime": {"transport", "security"},
    "actors.downloads": {"transport", "actors.runtime"},
    "actors.observe": {"transport", "actors.runtime"},
    "actors.jobs": {
        "transport",
        "algorithms",
        "client",
        "actors.runtime",
        "actors.downloads",
        "actors.observe",
    },
    "actors.roles": {
        "transport",
        "algorithms",
        "client",
        "actors.runtime",
        "actors.downloads",
        "actors.observe",
        "actors.jobs",
    },
    "edge": {"transport", "actors"},
    "recipes": {"transport", "algorithms", "client", "actors", "edge"},
    "cli": {"transport", "algorithms", "client", "actors", "edge", "recipes"},
}
ROOMS = ("transport", "security", "algorithms", "client", "actors", "edge", "recipes", "cli")

# Third-party modules that only some places may import; all others may be imported anywhere.
FENCED = {
    "torch": ("algorithms", "client", "actors/jobs", "recipes"),
    "safetensors": ("algorithms",),
    "aiohttp": ("transport",),
    "grpc": ("transport/doors/grpc",),
    "cryptography": ("security",),
    "prometheus_client": ("transport",),
    "greenlet": ("actors/jobs/launchers",),
    "rich": ("recipes/bars.py", "cli"),
    "typer": ("cli",),
    "tensorboard": ("actors/observe",),
    "mlflow": ("actors/observe/mlflow.py",),
    "wandb": ("actors/observe/wandb.py",),
    "numpy": ("algorithms", "client", "actors/jobs"),
}
# They take seconds to import: never while a module is being imported.
LATE = {"grpc", "torch", "tensorboard", "mlflow", "wandb"}

BANNED_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}
BANNED_CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "yaml.load", "__import__"}
# `exec` of the user's own script is what a launcher is for; it runs code from a file, never from
# a message.
ALLOWED_CALLS = {("actors/jobs/launchers/execute.py", "exec")}

LONGEST_FILE = 600
LONGEST_FUNCTION = 60


def sources() -> list[Path]:
    """Every Python file of the package, relative to the root."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [path.relative_to(ROOT) for path in files]


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """The parsed sources."""
    return {path: ast.parse((ROOT / path).read_text()) for path in sources()}


def room_of(module: str) -> str:
    """The layer that a module below `covey.` belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "actors" else parts[0]


def module_of(path: Path) -> str:
    """The name of a file's module below `covey.`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path, tree: ast.Module) -> tuple[tuple[str, int, bool], ...]:
    """As `imports_in`, looked for once."""
    return tuple(imports_in(path, tree))


def imports_in(path: Path, tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Absolute names imported by a file, the line, and whether it happens at import time."""
    late = {id(n) for f in functions(tree) for n in ast.walk(f)}
    late |= {id(n) for block in type_checking_blocks(tree) for n in ast.walk(block)}
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        at_import = id(node) not in late
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, at_import
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level:
                base = package[: len(package) - node.level + 1]
                name = ".".join(["covey", *base, *([name] if name else [])])
            yield name, node.lineno, at_import


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def type_checking_blocks(tree: ast.AST) -> Iterator[ast.If]:
    """The blocks that only type checkers see."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield node


def test_imports_only_point_down(trees: dict[Path, ast.Module]) -> None:
    wrong: list[str] = []
    for path, tree in trees.items():
        own = room_of(module_of(path))
        if own == "actors":  # the package's own __init__ imports nothing
            assert not imports(path, tree)[1:], path
            continue
        allowed = {own, *LAYERS[own]}
        for name, line, _ in imports(path, tree):
            if not name.startswith("covey."):
                continue
            target = name.removeprefix("covey.")
            if not any(target == a or target.startswith(a + ".") for a in allowed):
                wrong.append(f"{path}:{line} imports {name}")
    assert wrong == []


def test_nobody_imports_a_room_by_its_folder(trees: dict[Path, ast.Module]) -> None:
    """From the root `import actors` works, and makes a second copy of every class."""
    wrong = [
        f"{path}:{line} imports {name}"
        for path, tree in trees.items()
        for name, line, _ in imports(path, tree)
        if name.split(".")[0] in ROOMS
    ]
    assert wrong == []


def test_across_rooms_imports_are_absolute_and_inside_relative(
    trees: dict[Path, ast.Module],
) -> None:
    wrong: list[str] = []
    for path, tree in trees.items():
        room = path.parts[0]
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.level:
                continue
            if f"{node.module}.".startswith(f"covey.{room}."):
                wrong.append(f"{path}:{node.lineno} imports {node.module} absolutely")
    assert wrong == []


def test_third_party_imports_stay_in_their_rooms(trees: dict[Path, ast.Module]) -> None:
    wrong: list[str] = []
    for path, tree in trees.items():
        for name, line, at_import in imports(path, tree):
            top = name.split(".")[0]
            if top in FENCED and not any(str(path).startswith(place) for place in FENCED[top]):
                wrong.append(f"{path}:{line} imports {name}")
            if top in LATE and at_import:
                wrong.append(f"{path}:{line} imports {name} while it is being imported")
    assert wrong == []


def test_nothing_can_run_code_from_data(trees: dict[Path, ast.Module]) -> None:
    wrong: list[str] = []
    for path, tree in trees.items():
        for name, line, _ in imports(path, tree):
            if name.split(".")[0] in BANNED_MODULES:
                wrong.append(f"{path}:{line} imports {name}")
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            shell = any(k.arg == "shell" for k in node.keywords)
            if shell or (called in BANNED_CALLS and (str(path), called) not in ALLOWED_CALLS):
                wrong.append(f"{path}:{node.lineno} calls {called}")
    assert wrong == []


def test_every_task_has_an_owner(trees: dict[Path, ast.Module]) -> None:
    """A task made and dropped is collected while it runs, and its error is lost."""
    wrong: list[str] = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                called = ast.unparse(node.value.func).split(".")[-1]
                if called in {"create_task", "ensure_future"}:
                    wrong.append(f"{path}:{node.lineno} drops a task")
    assert wrong == []


def test_cancellation_is_never_swallowed_by_a_bare_except(trees: dict[Path, ast.Module]) -> None:
    wrong: list[str] = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{path}:{node.lineno}: bare except")
    assert wrong == []


def test_files_and_functions_stay_small(trees: dict[Path, ast.Module]) -> None:
    wrong: list[str] = []
    for path, tree in trees.items():
        lines = len((ROOT / path).read_text().splitlines())
        if lines > LONGEST_FILE:
            wrong.append(f"{path} has {lines} lines")
        for function in functions(tree):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > LONGEST_FUNCTION:
                wrong.append(f"{path}:{function.lineno} {function.name} has {length} lines")
    assert wrong == []


def test_every_module_says_what_belongs_in_it(trees: dict[Path, ast.Module]) -> None:
    wrong = [str(path) for path, tree in trees.items() if len(ast.get_docstring(tree) or "") < 10]
    assert wrong == []


def test_packages_match_folders_and_links() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        "covey." + ".".join(path.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(settings["packages"]) == folders
    assert settings["package-dir"] == {f"covey.{room}": room for room in ROOMS}
    links = {link.name: link.resolve() for link in (ROOT / ".links" / "covey").iterdir()}
    assert links == {room: ROOT / room for room in ROOMS}


def test_every_package_is_typed() -> None:
    untyped = [
        str(path.parent.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
        if not (path.parent / "py.typed").exists()
    ]
    assert untyped == []
