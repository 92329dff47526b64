"""Virtual time: what waits costs nothing, what hangs is an error, what is random is seeded."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from dataclasses import dataclass

import pytest

from covey.actors.runtime import Actor, Event, Message, System, handles
from covey.actors.runtime.testing import Deadlock, EventHash, VirtualLoop, simulate


@dataclass(frozen=True, slots=True)
class Hang(Message["Hanger", None]):
    pass


class Hanger(Actor):
    @handles
    async def hang(self, message: Hang) -> None:
        await asyncio.Event().wait()


def test_sleeping_advances_the_clock_and_nothing_else() -> None:
    async def main() -> float:
        began = time.monotonic()
        async with asyncio.timeout(3600 * 24 * 365 + 1):
            await asyncio.sleep(3600 * 24 * 365)
        assert time.monotonic() - began < 60
        return asyncio.get_running_loop().time()

    assert simulate(main) == 3600 * 24 * 365


def test_a_timeout_fires_at_its_virtual_time() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        assert asyncio.get_running_loop().time() == pytest.approx(3600)

    simulate(main)


def test_waiting_for_nothing_is_an_error_that_names_the_waiting() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Hanger, name="hanger")
            await system.spawn(Hanger, name="idle")
            await ref.tell(Hang())
            await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock) as deadlock:
        simulate(main, seed=7)
    tasks = "\n".join(deadlock.value.tasks)
    assert "s/hanger at Event.wait" in tasks
    assert "test_waiting_for_nothing_is_an_error_that_names_the_waiting" in tasks
    assert "s/idle" not in tasks
    assert any("seed=7" in note for note in deadlock.value.__notes__)


def test_the_same_seed_shuffles_alike_and_another_one_does_not() -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def step(number: int) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                order.append(number)

        await asyncio.gather(*(step(number) for number in range(10)))
        return order

    assert simulate(main, seed=1) == simulate(main, seed=1)
    assert len({tuple(simulate(main, seed=seed)) for seed in range(5)}) == 5
    assert simulate(main, jitter=False) == list(range(10)) * 3


def test_virtual_time_stands_still_while_a_thread_works() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        asked = threading.Event()
        released = threading.Event()

        def work() -> int:
            asked.set()
            released.wait(10)
            return 5

        def release() -> None:
            asked.wait(10)
            released.set()

        helper = threading.Thread(target=release)
        helper.start()
        assert await asyncio.to_thread(work) == 5
        helper.join()
        return loop.time()

    assert simulate(main) == 0.0


def test_ready_io_comes_before_time_passes() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            for _ in range(100):
                loop.call_later(1e-3, lambda: None)
                await loop.sock_sendall(left, b"x")
                assert await loop.sock_recv(right, 1) == b"x"
            assert loop.time() == 0.0
            with pytest.raises(TimeoutError):  # an open socket does not stop time
                await asyncio.wait_for(loop.sock_recv(right, 1), 100)

    simulate(main, jitter=False)


def test_a_loop_can_be_used_by_itself() -> None:
    loop = VirtualLoop()
    try:
        assert loop.run_until_complete(asyncio.sleep(100, "done")) == "done"
        assert loop.time() == 100.0
    finally:
        loop.close()


def test_an_event_hash_tells_runs_apart_and_is_stable() -> None:
    events = [Event("start", "s/a", "Train", "s-1", 1.5), Event("end", "s/a", "Train", "s-1", 2.5)]
    first, second, third = EventHash(), EventHash(), EventHash()
    for event in events:
        first(event)
        second(event)
    for event in reversed(events):
        third(event)
    assert first.events == 2
    assert first.hexdigest() == second.hexdigest() != third.hexdigest()
    assert first.hexdigest() == "a7e7075289dd28d57b4948e96eca0878"
