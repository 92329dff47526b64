"""A big model: 496 MiB in tensors of 16 MiB, 2 clients x 2 rounds, sent back as it came."""

from __future__ import annotations

from . import whole
from .page import Table
from .series import Series
from .systems import FUNCTION, SCRIPT
from .work.settings import Work

_NOTE = (
    "496 MiB of float32 in 31 tensors, 2 clients x 2 rounds, no training. Every program looks at "
    "each element of the result before it ends. nvflare with PyTorch tensors on the wire and "
    "with disk offload, its fastest settings."
)


def run(series: Series, repeats: int | None) -> list[Table]:
    """One table."""
    trials = series.take_turns(Work("big", 2, 2, ""), repeats or 2)
    limits = {
        name: "wall >= 3 x, memory >= 2 x" for name in trials if name not in (SCRIPT, FUNCTION)
    }
    return [whole.table("Big model", _NOTE, trials, limits)]
