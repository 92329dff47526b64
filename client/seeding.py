"""The random state of a script, derived from the run's seed.

Here: deriving seeds and setting Python's, NumPy's and torch's generators. Not here: when
(`running.py`). torch is seeded only if the script's process has imported it.
"""

from __future__ import annotations

import hashlib
import random
import sys
from typing import Any, Final

# NumPy loads it lazily; here it is loaded before a fork, not by every client after it.
from numpy import random as numpy_random

_SEED_BYTES: Final = 16  # 128 bits: no two sites or rounds share a seed by chance


def derive(seed: int, *parts: str | int) -> int:
    """A 128-bit seed that depends on the run's seed and on every part, the type included."""
    text = repr((seed, *parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=_SEED_BYTES).digest(), "little")


def seed_everything(seed: int) -> None:
    """Set the global generators of `random`, `numpy.random` and `torch` from one seed.

    Each gets a seed of its own: Python and NumPy use the same generator, and would draw the
    same numbers from the same seed.
    """
    random.seed(derive(seed, "python"))
    own = derive(seed, "numpy")
    numpy_random.seed([(own >> shift) & 0xFFFFFFFF for shift in range(0, 128, 32)])
    torch: Any = sys.modules.get("torch")  # Any: a module that may not be there
    if torch is not None:
        _seed_torch(torch, derive(seed, "torch") & 0xFFFFFFFFFFFFFFFF)


def _seed_torch(torch: Any, seed: int) -> None:
    # For each kind of accelerator `torch.manual_seed` notes where it was called from, which reads
    # every file on the stack: most of a millisecond, each round, for devices that are not there.
    accelerator = getattr(torch, "accelerator", None)  # since torch 2.6
    if accelerator is None or accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
