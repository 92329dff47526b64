"""Seeds: every random number of a run comes from the run's seed and a name.

Here: deriving a seed for a part of a run, and a NumPy generator from it. Not here: seeding Python
or torch (the client), drawing the run's own seed (recipes).
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

Generator: TypeAlias = np.random.Generator

_SEED_BYTES = 16  # the key of Philox, and room enough that no two names ever meet


def derive(run_seed: int, *parts: str | int) -> int:
    """A 128-bit seed for the named part of a run.

    Different parts give unrelated seeds; the same parts give the same seed on every machine and
    in every version (BLAKE2b over a framing in which no two lists of parts look alike).

    Args:
        run_seed: The run's seed, of any size and sign.
        *parts: What the seed is for, such as "site-1", 3. The text "3" and the number 3 differ.
    """
    return int.from_bytes(_digest(_SEED_BYTES, run_seed, parts), "little")


def _digest(size: int, run_seed: int, parts: tuple[str | int, ...]) -> bytes:
    framed = b"".join(map(_framed, (run_seed, *parts)))
    return hashlib.blake2b(framed, digest_size=size, person=b"covey.seed.v1").digest()


def _framed(part: str | int) -> bytes:
    text = part.encode() if isinstance(part, str) else b"%d" % part
    return (b"s" if isinstance(part, str) else b"i") + len(text).to_bytes(8, "little") + text


class _Words(np.random.bit_generator.ISeedSequence):
    """A seed sequence that gives its digest's words: NumPy's own takes ten times as long."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def generate_state(
        self, n_words: int, dtype: npt.DTypeLike = np.uint32
    ) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._digest, dtype, n_words)


def generator(run_seed: int, *parts: str | int) -> np.random.Generator:
    """A NumPy generator for the named part of a run, such as one site in one round.

    It is PCG64 DXSM with the derived seed as its state: cheap to make, and a resumed run draws
    in a round exactly what the undisturbed run drew in it.
    """
    # 4 words of 64 bits: state and increment.
    words = _Words(_digest(32, run_seed, parts))
    # NumPy documents any ISeedSequence as a seed; its stubs name SeedSequence alone.
    return np.random.Generator(np.random.PCG64DXSM(cast("np.random.SeedSequence", words)))
