"""The manifest of a job: what is to be run, as canonical data with a digest.

Two runs of one manifest are the same run: by its digest an interrupted run is
found again. Code counts by its content, the initial model by its layout (a
model made anew by a script has other random weights each time) and, where it is
a file, by its content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3


@dataclass(frozen=True, slots=True)
class JobManifest:
    """A job as data.

    Attributes:
        recipe: Kind of the recipe.
        name: The user's name for it.
        sites: Names of the sites, in order.
        settings: The recipe's settings, as plain data.
        model: Digest of the initial model's layout, or of its file.
        code: Digests of the user's own files by name, or of the function's source.
    """

    recipe: str
    name: str
    sites: tuple[str, ...]
    settings: Mapping[str, Any]
    model: str
    code: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """BLAKE3 of the canonical form, in hex."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), default=str)
        return blake3(text.encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """BLAKE3 of a file's content, in hex; maps it, so that its size does not matter."""
    return blake3().update_mmap(path).hexdigest()


def digest_of_text(text: str) -> str:
    """BLAKE3 of a text, in hex."""
    return blake3(text.encode()).hexdigest()
