"""Record: ids in the class statement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import pytest

from covey.transport import Record

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WithId(Record, id=1500):
    count: int = 0


@dataclass(frozen=True, slots=True)
class WithoutOwnId(WithId):
    more: int = 0


class Question(Record, Generic[T]):
    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Concrete(Question[int], id=1501):
    count: int = 0


def test_an_id_survives_the_second_class_that_slots_make() -> None:
    assert WithId.wire_id == 1500
    assert WithId(3).wire_id == 1500
    assert not hasattr(WithId(3), "__dict__")


def test_an_id_is_not_inherited() -> None:
    assert WithoutOwnId.wire_id == 0
    assert Record.wire_id == 0


def test_a_generic_base_may_stand_between() -> None:
    assert Question.wire_id == 0
    assert Concrete.wire_id == 1501


@pytest.mark.parametrize("wire_id", [0, -1, 65536])
def test_an_id_outside_sixteen_bits_is_refused(wire_id: int) -> None:
    with pytest.raises(ValueError, match="1-65535"):
        type("Bad", (Record,), {}, id=wire_id)
