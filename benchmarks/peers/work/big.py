"""A big model of known numbers, which clients send back as they got it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

TENSORS = 31
ELEMENTS = 4 << 20  # 16 MiB of float32


class Big(nn.Module):
    """31 tensors of 16 MiB, the elements of each being its number: 496 MiB."""

    def __init__(self) -> None:
        """Fill them."""
        super().__init__()
        self.tensors = nn.ParameterList(numbers())


def numbers() -> Iterable[nn.Parameter]:
    """The tensors, one after the other."""
    for number in range(TENSORS):
        yield nn.Parameter(torch.full((ELEMENTS,), float(number)))


def check(state: Mapping[str, torch.Tensor]) -> None:
    """Look at every element of `{"tensors.0": ..., ...}`.

    Raises:
        SystemExit: If one is not what it was.
    """
    for number in range(TENSORS):
        if not bool((state[f"tensors.{number}"] == number).all()):
            raise SystemExit(f"tensors.{number} is not what it was")
