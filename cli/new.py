"""`covey new`: a folder with a job that runs.

Here: copying a template and giving it the folder's name. Not here: the templates themselves
(`templates/`: the examples, with `.txt` added to their names so that nothing takes them for
modules of this package).
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from .errors import CommandError

TemplateName = Literal["torch", "numpy", "sklearn"]

_FOLDER: Final = Path(__file__).with_name("templates")

#: Packages that a template's files import and that covey does not bring: (module, package).
_NEEDS: Final[Mapping[TemplateName, Sequence[tuple[str, str]]]] = {
    "torch": (("sklearn", "scikit-learn"), ("tensorboard", "tensorboard")),
    "numpy": (),
    "sklearn": (("sklearn", "scikit-learn"),),
}


def make(folder: Path, template: TemplateName) -> None:
    """Make the folder and its files; nothing that exists is written over.

    Raises:
        CommandError: If a file is there already, or the folder cannot be written to.
    """
    sources = sorted((_FOLDER / template).iterdir())
    files = {folder / source.name.removesuffix(".txt"): source for source in sources}
    there = [str(file) for file in files if file.exists()]
    if there:
        raise CommandError(f"{there[0]} exists already; choose another folder")
    name = _recipe_name(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, source in files.items():
            file.write_text(_renamed(source.read_text(), template, name))
    except OSError as error:
        raise CommandError(f"cannot write {error.filename}: {error.strerror}") from None
    _tell(folder, template, list(files))


def _recipe_name(folder: Path) -> str:
    """The folder's name, as a recipe may be called."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-.")
    return name[:64] or "my-job"


def _renamed(text: str, template: TemplateName, name: str) -> str:
    example = {"torch": "hello-digits", "numpy": "hello-numpy", "sklearn": "hello-sklearn"}
    return text.replace(example[template], name).replace(example[template].replace("-", "_"), name)


def _tell(folder: Path, template: TemplateName, files: Sequence[Path]) -> None:
    names = ", ".join(file.name for file in files)
    lines = [
        f"made {folder}: {names}",
        "run it:",
        f"    cd {shlex.quote(str(folder))}",
        "    covey run",
    ]
    missing = [name for module, name in _NEEDS[template] if not importlib.util.find_spec(module)]
    if missing:
        lines += ["it needs more than is installed:"]
        lines += [f"    pip install {' '.join(missing)}"]
    sys.stdout.write("\n".join(lines) + "\n")
