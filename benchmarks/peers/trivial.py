"""Trivial rounds: three of them, two steps of SGD each, with more and more clients."""

from __future__ import annotations

from . import whole
from .page import Table
from .series import Series
from .systems import ALL, FUNCTION, SCRIPT, WARM
from .work.settings import Work

ROUNDS = 3
CLOSE_ROUNDS = 21
#: Clients -> repeats.
SIZES = {2: 3, 8: 1, 32: 3, 100: 1}

_FASTER = {2: 5, 32: 4}
_NOTE = (
    "A convolutional network of 3,818 parameters, two steps of SGD on 8 samples, 3 rounds; the "
    "time is the whole command's. Ratios are a system's figure over covey's. Memory of covey "
    "and of all runs under 20 s is that of a run of 21 rounds, in which it is looked at closely."
)
_NOTE_WARM = (
    " 'flwr, superlink up' is the second of two runs, with the superlink that the first one has "
    "left; its CPU seconds are those of both."
)


def run(series: Series, repeats: int | None) -> list[Table]:
    """A table for each number of clients."""
    return [_size(series, clients, repeats or usual) for clients, usual in SIZES.items()]


def _size(series: Series, clients: int, repeats: int) -> Table:
    warm = clients == min(SIZES)
    among = (*ALL, WARM) if warm else ALL
    work = Work("trivial", clients, ROUNDS, "")
    trials = series.take_turns(work, repeats, among=among, close_rounds=CLOSE_ROUNDS)
    limits: dict[str, str] = {}
    if clients in _FASTER:
        text = f"wall >= {_FASTER[clients]} x"
        limits = {name: text for name in trials if name not in (SCRIPT, FUNCTION)}
    about = _NOTE + _NOTE_WARM if warm else _NOTE
    return whole.table(f"Trivial rounds, {clients} clients", about, trials, limits)
