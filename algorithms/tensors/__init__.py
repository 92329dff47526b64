"""Tensors as bytes: element types, safetensors layout, packing and unpacking of state dicts.

Here: everything that knows how a model lies in a blob. Not here: what is computed from models
(the room above), where blobs come from and go to. Imports neither torch nor safetensors.
"""

from __future__ import annotations

from .difference import difference
from .dtypes import DTYPES, DType, Scratch, all_finite, narrow, widen
from .files import InitialModel, load_initial, map_private, read_layout
from .layout import Buffer, Kind, Layout, StateDict, TensorSpec, header_size
from .parts import unpack_private
from .stack import Rows, Stack
from .state import Packer, ParamsType, kind_of

__all__ = [
    "DTYPES",
    "Buffer",
    "DType",
    "InitialModel",
    "Kind",
    "Layout",
    "Packer",
    "ParamsType",
    "Rows",
    "Scratch",
    "Stack",
    "StateDict",
    "TensorSpec",
    "all_finite",
    "difference",
    "header_size",
    "kind_of",
    "load_initial",
    "map_private",
    "narrow",
    "read_layout",
    "unpack_private",
    "widen",
]
