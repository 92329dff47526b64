"""The table of handlers: what a class statement accepts, and what it refuses at import."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from covey.actors.runtime import Actor, Address, Message, Pull, System, handles
from covey.actors.runtime.testing import simulate


@dataclass(frozen=True, slots=True)
class Ask(Message["Base", int]):
    pass


@dataclass(frozen=True, slots=True)
class Parts(Pull["Base", int]):
    pass


class Base(Actor):
    @handles
    def ask(self, message: Ask) -> int:
        return 1


class Derived(Base):
    def ask(self, message: Ask) -> int:
        return 2


def test_an_overriding_method_serves_its_message_without_the_mark() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Derived, name="d")
            assert await ref.ask(Ask()) == 2

    simulate(main)


def test_a_handler_may_become_async_in_a_subclass() -> None:
    class Later(Base):
        async def ask(self, message: Ask) -> int:  # type: ignore[override]  # pyright: ignore
            return 3

    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Later, name="d")
            assert await ref.ask(Ask()) == 3

    simulate(main)


def test_a_handler_takes_exactly_one_message() -> None:
    with pytest.raises(TypeError, match="exactly one message"):

        class Wrong(Actor):  # pyright: ignore[reportUnusedClass]
            @handles
            def two(self, message: Ask, other: Ask) -> int:
                return 1


def test_a_handlers_annotation_is_a_message() -> None:
    with pytest.raises(TypeError, match="Message or Pull"):

        class Wrong(Actor):  # pyright: ignore[reportUnusedClass]
            @handles
            def number(self, message: int) -> int:
                return 1


def test_a_handler_returns_what_its_message_promises() -> None:
    with pytest.raises(TypeError, match="promises"):

        class Wrong(Actor):  # pyright: ignore[reportUnusedClass]
            @handles
            def ask(self, message: Ask) -> str:
                return ""


def test_a_pull_is_served_by_a_generator_and_a_message_by_a_function() -> None:
    with pytest.raises(TypeError, match="async generator"):

        class Wrong(Actor):  # pyright: ignore[reportUnusedClass]
            @handles
            def parts(self, message: Parts) -> int:
                return 1

    with pytest.raises(TypeError, match="async generator"):

        class Worse(Actor):  # pyright: ignore[reportUnusedClass]
            @handles
            async def ask(self, message: Ask) -> AsyncIterator[int]:
                yield 1


def test_addresses_are_read_and_written() -> None:
    address = Address.parse("site-1.job-7/trainer")
    assert (address.node, address.name, str(address)) == (
        "site-1.job-7",
        "trainer",
        "site-1.job-7/trainer",
    )
    for wrong in ("nowhere", "/a", "a/", "a/b/c", "a b/c", "-a/b", "a/" + "x" * 129):
        with pytest.raises(ValueError, match=r"name|address"):
            Address.parse(wrong)
