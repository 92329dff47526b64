"""Names of actors: `node/name`, for example `site-3/trainer`."""

from __future__ import annotations

import re
from typing import NamedTuple

# A node may name its parents with dots (`site-1.job-7.trainer`); 128 characters
# bound what a peer can make us keep in tables and logs.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


class Address(NamedTuple):
    """Where an actor lives: the system (node) that runs it and its name there."""

    node: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `node/name`; raise `ValueError` where either part is not a valid name."""
        node, slash, name = text.partition("/")
        if not slash:
            raise ValueError(
                f"{text!r} is no actor address; expected node/name, as in site-1/trainer"
            )
        return cls(checked(node), checked(name))

    def __str__(self) -> str:
        return f"{self.node}/{self.name}"


def checked(name: str) -> str:
    """Return `name` if it may stand in an address, else raise `ValueError`."""
    if not _PART.fullmatch(name):
        raise ValueError(
            f"{name!r} is no valid name: use letters, digits, '_', '-' and '.', "
            "at most 128 characters"
        )
    return name
