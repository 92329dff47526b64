"""The random state of a script, derived from the run's seed.

Here: deriving seeds and setting Python's, NumPy's and torch's generators. Not here: when
(`running.py`). NumPy and torch are seeded only if the script's process has imported them.
"""

from __future__ import annotations

import hashlib
import random
import sys
from typing import Any, Final

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
    numpy: Any = sys.modules.get("numpy")  # Any: modules that may not be there
    if numpy is not None:
        own = derive(seed, "numpy")
        numpy.random.seed([(own >> shift) & 0xFFFFFFFF for shift in range(0, 128, 32)])
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(derive(seed, "torch") & 0xFFFFFFFFFFFFFFFF)
