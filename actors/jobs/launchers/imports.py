"""What a script imports, found without importing any of it.

Here: reading a script and the local modules it uses as syntax trees, for their unconditional
imports at module level. Not here: importing them (`template.py`), or judging whether that is
safe (there too, by what an import does).

Why only these: they are what every run of the script executes first, so loading them once, in
the process that clients are forked from, changes nothing but the time it takes. Local modules
are the user's own code and may do anything when imported; they are read, never imported.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: Folders that hold installed packages, on every layout in use.
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})

#: A script that pulls in more local files than this is reading a whole tree; stop there.
_MAX_LOCAL_FILES: Final = 2000


@dataclass(frozen=True, slots=True)
class MissingImport:
    """A module that a script needs and that cannot be found.

    Attributes:
        module: Its top-level name.
        file: The file that imports it.
        line: Line of the import.
    """

    module: str
    file: Path
    line: int

    def __str__(self) -> str:
        return f'no module named {self.module!r}, imported in "{self.file}", line {self.line}'


@dataclass(frozen=True, slots=True)
class ScriptImports:
    """What a script imports unconditionally, directly or through its local modules.

    Attributes:
        third_party: Installed modules in the order they are met: "a.b", or "a.b:c" for a name c
            that is taken from a.b and may be a module itself.
        local: Files of the user's own, the script first.
        missing: Modules that cannot be found.
    """

    third_party: tuple[str, ...]
    local: tuple[Path, ...]
    missing: tuple[MissingImport, ...]


def scan(script: Path, extra_path: Sequence[Path] = ()) -> ScriptImports:
    """Find what a script imports. Reads files; imports and runs nothing.

    Imports inside functions, `if`, `try` and the like are left out: whether they happen is the
    script's decision. A file with a syntax error counts as one without imports; running the
    script reports the error itself.

    Args:
        script: The script.
        extra_path: Folders on `sys.path` after the script's own.

    Raises:
        OSError: If the script itself cannot be read.
    """
    script = script.absolute()
    search = _Search([script.resolve().parent, *extra_path])
    search.follow(script, script.read_bytes())
    return ScriptImports(
        tuple(search.third_party), tuple(search.local), tuple(search.missing.values())
    )


@dataclass(frozen=True, slots=True)
class _Import:
    """One import statement's module: its dotted name, the names taken from it, and where."""

    module: str
    names: tuple[str, ...]
    level: int
    line: int


@dataclass(slots=True)
class _Search:
    """State of one scan: folders to look in, and what has been found."""

    folders: list[Path]
    third_party: dict[str, None] = field(default_factory=dict[str, None])
    local: dict[Path, None] = field(default_factory=dict[Path, None])
    missing: dict[str, MissingImport] = field(default_factory=dict[str, MissingImport])

    def follow(self, file: Path, source: bytes | None = None) -> None:
        """Take in a local file and whatever it imports."""
        if file in self.local or len(self.local) >= _MAX_LOCAL_FILES:
            return
        self.local[file] = None
        for statement in _imports_of(file, source):
            if statement.level:
                self._follow_relative(file, statement)
            else:
                self._resolve(file, statement)

    def _resolve(self, file: Path, statement: _Import) -> None:
        top = statement.module.partition(".")[0]
        if top in sys.builtin_module_names:
            return
        if self._follow_local(self.folders, statement):
            return
        if top in sys.stdlib_module_names:
            return
        spec = _find_top_level(top)
        if spec is None:
            self.missing.setdefault(top, MissingImport(top, file, statement.line))
        elif top == "covey" or _is_installed(spec):
            self._take_third_party(statement)
        else:
            # On the path, but nobody's installed package: the user's own code elsewhere.
            self._follow_local(_folders_of(spec), statement)

    def _take_third_party(self, statement: _Import) -> None:
        self.third_party.setdefault(statement.module)
        for name in statement.names:
            if name != "*":
                self.third_party.setdefault(f"{statement.module}:{name}")

    def _follow_relative(self, file: Path, statement: _Import) -> None:
        folder = file.parent
        for _ in range(statement.level - 1):
            folder = folder.parent
        if statement.module:
            self._follow_local([folder], statement)
        else:
            for name in statement.names:
                self._follow_local([folder], _Import(name, (), 0, statement.line))

    def _follow_local(self, folders: Iterable[Path], statement: _Import) -> bool:
        """Follow a module that lies in one of the folders; gives whether one does."""
        parts = statement.module.split(".")
        for folder in folders:
            if not (_files_of(folder / parts[0]) or (folder / parts[0]).is_dir()):
                continue
            at = folder
            for part in parts:
                at = at / part
                for file in _files_of(at):
                    self.follow(file)
            for name in statement.names:
                for file in _files_of(at / name):
                    self.follow(file)
            return True
        return False


def _imports_of(file: Path, source: bytes | None) -> Iterator[_Import]:
    try:
        tree = ast.parse(file.read_bytes() if source is None else source)
    except (OSError, SyntaxError, ValueError):
        return
    for statement in _unconditional(tree.body):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield _Import(alias.name, (), 0, statement.lineno)
        elif isinstance(statement, ast.ImportFrom):
            names = tuple(alias.name for alias in statement.names)
            yield _Import(statement.module or "", names, statement.level, statement.lineno)


def _unconditional(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module that always run; a `with` runs its body."""
    for statement in body:
        if isinstance(statement, ast.With):
            yield from _unconditional(statement.body)
        else:
            yield statement


def _files_of(module: Path) -> list[Path]:
    """The file that a module is, or the one that makes its folder a package."""
    found = [module / "__init__.py", module.with_name(module.name + ".py")]
    return [file for file in found if file.is_file()][:1]


def _find_top_level(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        # ValueError: a module put into sys.modules by hand, without a spec.
        return None


def _is_installed(spec: importlib.machinery.ModuleSpec) -> bool:
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any(_INSTALLED & set(Path(place).parts) for place in places if place)


def _folders_of(spec: importlib.machinery.ModuleSpec) -> list[Path]:
    """The folders in which a top-level module lies."""
    if spec.submodule_search_locations is not None:
        return [Path(place).parent for place in spec.submodule_search_locations]
    return [Path(spec.origin).parent] if spec.has_location and spec.origin else []
