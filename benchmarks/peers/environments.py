"""A virtual environment for each peer, made once and made again when what it shall hold changes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / ".venv-peers"
CONSTRAINTS: Final = ROOT / "constraints.txt"

#: What is measured. flwr brings uv, which it runs by itself for each run.
REQUIREMENTS: Final[Mapping[str, str]] = {
    "nvflare": "nvflare==2.9.0",
    "flwr": "flwr[simulation]==1.41.0",
    "pfl": "pfl[pytorch]==0.6.0",
}
#: What the work needs, from the same constraints as covey's own environment.
_COMMON = ("torch", "scikit-learn")
_SHOWN = ("torch", "numpy", "ray")
#: An environment is about 1.3 GB to fetch.
_LIMIT_S = 1200.0


class CannotInstall(Exception):
    """A peer's environment could not be made; carries the last that pip said."""


def prepare(peer: str) -> Path:
    """The Python of a peer's environment, which is made if it is not there as it shall be.

    Raises:
        CannotInstall: If pip fails.
    """
    folder = FOLDER / peer
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = _wanted(peer)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"setting up {folder}: about 1.5 GB, a minute or two", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*install, "--constraint", str(CONSTRAINTS), REQUIREMENTS[peer], *_COMMON])
    stamp.write_text(wanted)
    return python


def versions(peer: str, python: Path) -> str:
    """The peer's version and those of what it stands on."""
    code = (
        "import json, sys; from importlib import metadata\n"
        "have = {one.metadata['Name'].lower(): one.version for one in metadata.distributions()}\n"
        "print(json.dumps({name: have[name] for name in sys.argv[1:] if name in have}))"
    )
    command = [str(python), "-c", code, peer, *_SHOWN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return ", ".join(f"{name} {number}" for name, number in found.items())


def own_versions() -> str:
    """The same of covey's environment."""
    return ", ".join(f"{name} {version(name)}" for name in ("covey", "torch", "numpy"))


def _wanted(peer: str) -> str:
    """What an environment's stamp says if it is as it shall be."""
    held = (REQUIREMENTS[peer], *_COMMON, CONSTRAINTS.read_text(), sys.version)
    return hashlib.sha256("\n".join(held).encode()).hexdigest()


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise CannotInstall(f"{' '.join(command)}: over {_LIMIT_S:.0f} s") from error
    if done.returncode != 0:
        raise CannotInstall(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
