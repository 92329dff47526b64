"""A user's job file: looked at first, imported later.

Here: finding its client script without running anything, and importing it as a module with its
folder first on `sys.path`. Not here: running the recipe that it holds (`run.py`).

The look comes first because the template process needs to know what clients import, and has it
imported by the time this process has imported the job file.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from .errors import CommandError

#: Methods of a recipe that start a run.
_RUNS: Final = frozenset({"execute", "run", "submit", "start"})


@dataclass(frozen=True, slots=True)
class JobFile:
    """What can be told of a job file without running it.

    Attributes:
        path: The file, absolute.
        scripts: Client scripts that it names as constants, where they exist.
    """

    path: Path
    scripts: tuple[Path, ...]


def look(file: Path) -> JobFile:
    """Read a job file as a syntax tree. Nothing of it is run.

    Raises:
        CommandError: If it cannot be read, has a syntax error, has no `recipe`, or would run its
            recipe when imported.
    """
    path = file.absolute()
    tree = _parse(file, path)
    if not _assigns_recipe(tree):
        raise CommandError(
            f"{file} has no `recipe`: covey run looks for a variable of that name at module "
            "level, such as recipe = FedAvgRecipe(...)"
        )
    line = _line_that_runs(tree)
    if line is not None:
        raise CommandError(
            f"{file}, line {line} runs the recipe itself; put that line below\n"
            f'    if __name__ == "__main__":\n'
            f"or run the file with: python {file}"
        )
    places = (path.resolve().parent, Path.cwd())
    found = (_find(name, places) for name in _script_names(tree))
    return JobFile(path, tuple(script for script in found if script is not None))


def load(job: JobFile) -> ModuleType:
    """Import a job file, never as `__main__`, with its folder first on `sys.path`.

    `sys.argv` is the file alone while it is imported: the arguments are covey's.

    Raises:
        CommandError: If the file raises, with the file's own line last.
    """
    folder = str(job.path.resolve().parent)
    sys.path.insert(0, folder)
    name = job.path.stem if job.path.stem not in sys.modules else f"{job.path.stem}_job"
    spec = importlib.util.spec_from_file_location(name, job.path)
    if spec is None or spec.loader is None:
        raise CommandError(f"{job.path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    kept, sys.argv = sys.argv, [str(job.path)]
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise CommandError(f"{job.path} ended itself when imported: exit {error.code}") from error
    except Exception as error:
        raise CommandError(_told(error, job.path)) from error
    finally:
        sys.argv = kept
    return module


def _parse(file: Path, path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise CommandError(f"there is no file {file}; covey new DIR makes one to begin with") from (
            None
        )
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from None
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        # Not the whole error, which says the place once more.
        raise CommandError(f"{file}{line}: {error.msg}") from None
    except ValueError as error:
        raise CommandError(f"{file}: {error}") from None


def _assigns_recipe(tree: ast.Module) -> bool:
    """Whether a name `recipe` is bound at module level, by any statement outside a function."""
    return any(_binds(node, "recipe") for node in _module_level(tree))


def _binds(node: ast.AST, name: str) -> bool:
    match node:
        case ast.Name(id=found, ctx=ast.Store()):
            return found == name
        case ast.alias(name=found, asname=renamed):
            return (renamed or found.partition(".")[0]) in (name, "*")
        case _:
            return False


def _line_that_runs(tree: ast.Module) -> int | None:
    for node in _module_level(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="recipe"), attr=method), lineno=line
            ) if method in _RUNS:
                return line
            case _:
                pass
    return None


def _module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Everything that importing the module executes."""
    waiting: list[ast.AST] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and _is_main_guard(node.test):
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


def _is_main_guard(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))


def _script_names(tree: ast.Module) -> Iterator[str]:
    """Constants given as `train_script=`, directly or by a name set once at module level."""
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "train_script":
            value = node.value
            given = value.value if isinstance(value, ast.Constant) else None
            if isinstance(value, ast.Name):
                given = constants.get(value.id)
            if isinstance(given, str):
                yield given


def _find(name: str, places: tuple[Path, ...]) -> Path | None:
    """Where the recipe will find the script: beside the job file, then in the current folder."""
    return next((place / name for place in places if (place / name).is_file()), None)


def _told(error: Exception, path: Path) -> str:
    """An exception of the user's file: its own traceback, without the frames of importing it."""
    from covey.recipes import ConfigError

    mine = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame, path)]
    if isinstance(error, ConfigError) and mine:
        return f"{error}\n" + "".join(traceback.format_list(mine[-1:])).rstrip("\n")
    lines = traceback.format_list(mine) + traceback.format_exception_only(error)
    return f"{path.name} raised:\n" + "".join(lines).rstrip("\n")


def _is_users(frame: traceback.FrameSummary, path: Path) -> bool:
    """Below the job file's folder, and not in an environment that lies there too."""
    file = Path(frame.filename)
    return file.is_relative_to(path.parent) and "site-packages" not in file.parts
