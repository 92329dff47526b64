"""Registry: a closed table."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from covey.transport import DecodeError, LocalProtocolError, Record, Registry


@dataclass(frozen=True, slots=True)
class One(Record, id=3001):
    a: int = 0


@dataclass(frozen=True, slots=True)
class SameId(Record, id=3001):
    a: int = 0


@dataclass(frozen=True, slots=True)
class NoId(Record):
    a: int = 0


@dataclass(frozen=True, slots=True)
class Child(One):
    pass


def test_the_same_class_may_be_added_twice() -> None:
    registry = Registry(One, One)
    registry.add(One)
    assert registry.classes == (One,)
    assert One in registry


def test_an_id_that_is_taken_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="taken by One"):
        Registry(One, SameId)


def test_a_class_without_an_id_of_its_own_is_refused_at_start() -> None:
    for cls in (NoId, Child):
        with pytest.raises(ValueError, match="no wire id"):
            Registry(cls)


def test_a_frozen_registry_takes_no_more() -> None:
    registry = Registry(One)
    registry.freeze()
    registry.add(One)
    with pytest.raises(ValueError, match="frozen"):
        registry.add(Child)


def test_a_record_outside_the_table_is_neither_sent_nor_accepted() -> None:
    registry = Registry(One)
    with pytest.raises(LocalProtocolError, match="SameId"):
        registry.pack(SameId())
    with pytest.raises(LocalProtocolError, match="Child"):
        registry.pack(Child())
    with pytest.raises(DecodeError, match="3002"):
        registry.unpack(3002, {}, None)


def test_a_registry_shows_its_counts() -> None:
    registry = Registry(One)
    assert repr(registry) == "<Registry of 1 records, open>"
    registry.freeze()
    assert "frozen" in repr(registry)
