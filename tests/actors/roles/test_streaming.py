"""Streamed values arrive, in order and once, however many there are and whatever is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from covey.actors.downloads.blobs import Blobs
from covey.actors.jobs.launchers.script import Outcome, Script
from covey.actors.roles import trainer as module
from covey.actors.roles.messages import Assign, Counted, Streamed, Submit, role_messages
from covey.actors.roles.trainer import Trainer, TrainerSettings
from covey.actors.runtime import Actor, Mailbox, System, handles, runtime_messages
from covey.client.messages import Answer, Metric, Task
from covey.transport import Codec, Registry, memory_pair

SITES = tuple(f"site-{number}" for number in range(1, 5))
VALUES = 500


class Desk(Actor):
    """Stands where the job is; is slow to take values."""

    def __init__(self, results: asyncio.Queue[Submit], streamed: list[Streamed]) -> None:
        self._results = results
        self._streamed = streamed

    @handles
    async def submit(self, msg: Submit) -> Counted:
        await self._results.put(msg)
        return Counted("accepted")

    @handles
    async def stream(self, msg: Streamed) -> None:
        await asyncio.sleep(0)
        self._streamed.append(msg)


class Chatty:
    """A script that streams all its values in one go."""

    pid = None

    def __init__(self, site: str, on_metric: Callable[[Metric], None], text: str) -> None:
        self.site = site
        self._on_metric = on_metric
        self._text = text

    async def run(self, task: Task) -> Outcome:
        for step in range(VALUES):
            if self._text:
                self._on_metric(Metric("text", self._text, step, "text"))
            else:
                self._on_metric(Metric("loss", step / 2, step))
        return Outcome(Answer(task.name, task.round, "FULL", False, 0, {}), None)

    async def wait(self) -> None:
        return None

    async def stop(self, grace_s: float) -> None:
        return None

    def kill(self) -> None:
        return None


def stream(text: str = "") -> list[Streamed]:
    """Have four sites stream over links that encode, to a desk with a mailbox of two."""
    registry = Registry(*runtime_messages(), *role_messages())
    streamed: list[Streamed] = []
    results: asyncio.Queue[Submit] = asyncio.Queue()

    async def work(server: System, site: str) -> None:
        codec = Codec(registry)
        near, far = memory_pair("server", site, codec_a=codec, codec_b=codec)

        async def start(on_metric: Callable[[Metric], None]) -> Script:
            return Chatty(site, on_metric, text)

        async with System(site, registry=registry) as system:
            server.attach(near)
            system.attach(far, default=True)
            job = cast("Any", system.lookup("server/desk", Desk))
            settings = TrainerSettings(site, start, Blobs())
            ref = await system.spawn(lambda: Trainer(settings, job, "job"), name="trainer")
            await ref.ask(Assign("job", "train", 7, 1, 9))
            done: Awaitable[Submit] = results.get()
            await done

    async def main() -> None:
        async with asyncio.timeout(60), System("server", registry=registry) as server:
            desk = lambda: Desk(results, streamed)  # noqa: E731
            await server.spawn(desk, name="desk", mailbox=Mailbox(2))
            await asyncio.gather(*(work(server, site) for site in SITES))

    asyncio.run(main())
    return streamed


def steps_of(streamed: list[Streamed], site: str) -> list[int | None]:
    return [value.step for msg in streamed if msg.site == site for value in msg.values]


def test_all_values_of_all_sites_arrive_in_order() -> None:
    streamed = stream()
    for site in SITES:
        assert steps_of(streamed, site) == list(range(VALUES))
    assert {value.round for msg in streamed for value in msg.values} == {7}
    assert not any(msg.dropped for msg in streamed)


def test_long_texts_do_not_exceed_what_a_message_may_have() -> None:
    streamed = stream("\N{SNOWMAN}" * 10_000)
    assert steps_of(streamed, "site-1") == list(range(VALUES))


def test_what_is_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "METRICS_KEPT", 100)
    streamed = stream()
    assert steps_of(streamed, "site-1") == list(range(VALUES - 100, VALUES))
    assert streamed[-1].dropped == VALUES - 100
