"""Cyclic weight transfer: whose turn it is, and the rule that hands a model on.

Not here: waiting for whoever has the turn (the workflow).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from .aggregation import UpdateInfo
from .fedavg import FedAvg
from .seeds import derive


class Cyclic(FedAvg):
    """Cyclic weight transfer: the model goes from one site to the next.

    Chang, Balachandar, Lam, Yi, Brown, Beers, Rosen, Rubin, Kalpathy-Cramer: "Distributed deep
    learning networks among institutions for medical imaging", JAMIA 2018. In turn t:

    1. The server sends the model w_t to one site, k(t): `site_of_turn`.
    2. It trains on its own samples, starting from w_t, and gets w_k.
    3. w_{t+1} = w_k.

    This class is step 3: FedAvg of one update, which counts as one whatever it reports, so that
    the model is handed on bit by bit.
    """

    def weigh(self, info: UpdateInfo) -> float:
        """One."""
        super().weigh(info)
        return 1.0


def site_of_turn(
    turn: int, sites: Sequence[str], seed: int, order: Literal["fixed", "random"]
) -> str:
    """Whose turn it is: each site once in a cycle.

    Args:
        turn: Number of the turn, from 0.
        sites: Who takes part.
        seed: The run's seed.
        order: The sites' own order, or another one for every cycle, drawn by lot.
    """
    cycle, place = divmod(turn, len(sites))
    if order == "fixed":
        return sites[place]
    return Random(derive(seed, "cyclic", cycle)).sample(list(sites), len(sites))[place]
