"""Splitting one data set over sites.

Here: the Dirichlet label split that the field uses to imitate sites with different data. Not
here: loading data.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .errors import BadSetting
from .seeds import derive

_ATTEMPTS: Final = 100  # draws before samples are moved; a fair alpha needs one or two


def partition(
    labels: npt.ArrayLike,
    num_sites: int,
    alpha: float = 0.5,
    seed: int = 0,
    *,
    min_size: int = 1,
) -> list[npt.NDArray[np.int64]]:
    """Split samples over sites with skewed labels: every sample goes to exactly one site.

    For each label, the shares of the sites are drawn from a Dirichlet distribution (Hsu, Qi,
    Brown: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019). The split depends on the arguments alone (and on NumPy's Dirichlet
    sampler, which NumPy may change between its feature releases).

    Args:
        labels: One label per sample, of any type that can be sorted.
        num_sites: Number of sites.
        alpha: Concentration. 0.1 gives sites of one or two labels, 100 nearly equal shares,
            infinity equal ones.
        seed: Seed of the draw.
        min_size: Fewest samples of a site. If repeated draws do not give that, samples are moved
            from the largest site.

    Returns:
        For each site, the sorted indices of its samples.

    Raises:
        BadSetting: No sites, alpha not positive, or fewer samples than `num_sites * min_size`.
    """
    values: npt.NDArray[Any] = np.asarray(labels)
    _check(values, num_sites, alpha, min_size)
    random = np.random.Generator(np.random.Philox(key=derive(seed, "partition")))
    groups = [np.flatnonzero(values == label) for label in np.unique(values)]
    parts = _draw(groups, num_sites, alpha, random)
    for _ in range(_ATTEMPTS):
        if min(map(len, parts)) >= min_size:
            break
        parts = _draw(groups, num_sites, alpha, random)
    _move(parts, min_size)
    return [np.sort(part) for part in parts]


def _check(values: npt.NDArray[Any], num_sites: int, alpha: float, min_size: int) -> None:
    if num_sites < 1:
        raise BadSetting("num_sites", f"{num_sites}; must be at least 1")
    if not alpha > 0:
        raise BadSetting("alpha", f"{alpha}; must be positive")
    if min_size < 0:
        raise BadSetting("min_size", f"{min_size}; must not be negative")
    if values.ndim != 1:
        raise BadSetting("labels", f"{values.ndim} dimensions; one label per sample is needed")
    if len(values) < num_sites * min_size:
        raise BadSetting("min_size", f"{len(values)} samples are too few for {num_sites} sites")


def _draw(
    groups: list[npt.NDArray[np.int64]], num_sites: int, alpha: float, random: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    pieces: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(num_sites)]
    for group in groups:
        shares = np.full(num_sites, 1.0 / num_sites)
        if not math.isinf(alpha):
            shares = random.dirichlet(np.full(num_sites, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(group)).astype(np.int64)
        for site, piece in enumerate(np.split(random.permutation(group), cuts)):
            pieces[site].append(piece)
    empty: npt.NDArray[np.int64] = np.empty(0, np.int64)
    return [np.concatenate([empty, *site]) for site in pieces]


def _move(parts: list[npt.NDArray[np.int64]], min_size: int) -> None:
    """Fill up what is too small, one sample at a time from whoever has most."""
    for site in range(len(parts)):
        while len(parts[site]) < min_size:
            largest = max(range(len(parts)), key=lambda other: len(parts[other]))
            parts[site] = np.append(parts[site], parts[largest][-1])
            parts[largest] = parts[largest][:-1]
