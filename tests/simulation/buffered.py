"""The faulty federation, training asynchronously, with an aggregator that crashes too.

Here: what differs from `federation.py`, the oracle of a run, and what must hold of it.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np

from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.roles import asynchronous
from covey.actors.roles.asynchronous import AsynchronousSettings, AsynchronousTraining
from covey.actors.roles.buffering import BufferedAggregator
from covey.actors.roles.messages import Fill, Filled
from covey.actors.roles.plan import JobPlan
from covey.actors.runtime import handles
from covey.actors.runtime.testing import simulate
from covey.algorithms import FedBuff
from covey.algorithms.tensors import Packer

from .arithmetic import REFUSED, arrays, beginning, increment, layout
from .federation import Account, Federation, Scenario, _fast_folder

#: Updates that make a version: a power of two, so that means are exact.
SIZE = 2
#: Versions for each round that was drawn.
VERSIONS = 3
#: Crashes of the aggregator; more would be past its budget.
CRASHES = 3


class BufferedFederation(Federation):
    """One run of one scenario without rounds."""

    def _plan(self) -> JobPlan:
        scenario = self.scenario
        settings = AsynchronousSettings(
            concurrency=max(1, len(scenario.sites) - scenario.seed % 2),
            lease_s=math.inf if scenario.calm or scenario.seed % 3 else 90.0,
            period_s=None,
            flush=False,
            most_failures=3,
            seed=scenario.seed,
        )
        rule = FedBuff(buffer_size=SIZE, staleness="constant")
        training: Any = partial(AsynchronousTraining, rule=rule, settings=settings)
        plan = super()._plan()
        return replace(plan, rule=rule, training=training, rounds=VERSIONS * scenario.rounds)

    async def _weather(self) -> None:
        crashes = asyncio.ensure_future(self._crash_aggregator())
        try:
            await super()._weather()
        finally:
            crashes.cancel()
            await asyncio.wait([crashes])

    async def _crash_aggregator(self) -> None:
        """Crash it between two messages, or when it has counted an update and not said so."""
        for _ in range(CRASHES):
            await asyncio.sleep(self._rng.uniform(1, 60))
            if self._rng.random() < 0.5:
                CrashingAggregator.crash_due = True
                continue
            cell = self._network.system("server").cells.get("server.job-job.aggregator")
            if cell is not None:
                cell.crash(RuntimeError("drawn"))
                self.account.struck["aggregator"] += 1


class CrashingAggregator(BufferedAggregator):
    """An aggregator that crashes when it is told to."""

    crash_due: ClassVar[bool] = False

    @handles
    async def fill(self, msg: Fill) -> Filled:
        filled = await super().fill(msg)
        counts = any(entered.verdict == "accepted" for entered in filled.entered)
        if CrashingAggregator.crash_due and counts:
            CrashingAggregator.crash_due = False
            raise RuntimeError("drawn")
        return filled


def run(seed: int) -> Account:
    """Run the scenario of a seed to its end, without rounds."""
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        federation = BufferedFederation(Scenario.draw(seed), Path(folder))
        CrashingAggregator.crash_due = False
        with patch.object(asynchronous, "BufferedAggregator", CrashingAggregator):
            return simulate(federation.run, seed=seed)


def taken(account: Account) -> list[tuple[str, int]]:
    """The site and the version of each update that counts, in the order in which they came."""
    return [
        (str(event.site), event.round or 0)
        for event in account.events
        if event.kind is EventKind.SITE_FINISHED and event.data["task"] == "train"
    ]


def oracle(account: Account, versions: int) -> dict[str, Any]:
    """The model after so many versions, from the updates that count."""
    sites = account.scenario.sites
    model = {name: np.array(values) for name, values in beginning(len(sites)).items()}
    updates = taken(account)
    for version in range(versions):
        for site, base in updates[version * SIZE : (version + 1) * SIZE]:
            step = increment(sites.index(site), base, len(sites))
            model = {name: model[name] + np.array(step[name]) / SIZE for name in model}
    return arrays({name: list(values) for name, values in model.items()})


def violations(account: Account) -> list[str]:
    """Everything that is wrong with a run; empty if nothing is."""
    found = [f"still there: {what}" for what in account.left]
    found += [f"the job crashed: {detail}" for detail in account.crashed]
    end = account.events[-1] if account.events else None
    if end is None or end.kind is not EventKind.RUN_FINISHED:
        return [*found, "the job has not ended"]
    found += _made_up(account)
    found += _wrong_end(account, end)
    versions: int = end.data["rounds"]
    if len(taken(account)) < versions * SIZE:
        found.append(f"{versions} versions of {len(taken(account))} updates")
    got = Packer(layout(len(account.scenario.sites))).unpack(bytearray(account.model))
    for name, expected in oracle(account, versions).items():
        if not np.allclose(got[name], expected, rtol=1e-6, atol=0):
            found.append(f"{name} is {got[name]}, not {expected}")
    return found


def _made_up(account: Account) -> Iterator[str]:
    """Updates that counted more often than they were made, or that are unfit."""
    issued, troubles = account.ledger.issued, account.ledger.troubles
    for (site, version), count in Counter(taken(account)).items():
        if count > issued[site, "train", version]:
            yield f"{site}'s updates of version {version} counted {count} times"
        trouble = troubles.get((site, version))
        if trouble in REFUSED - {"weight"} or trouble == "nan":
            yield f"{site}'s unfit update ({trouble}) of version {version} counted"


def _wrong_end(account: Account, end: RunEvent) -> Iterator[str]:
    status, rounds = end.data["status"], end.data["rounds"]
    if "internal" in end.data["error"] or "aggregator" in end.data["error"]:
        yield end.data["error"]
    if status == "completed" and rounds != VERSIONS * account.scenario.rounds:
        yield f"completed after {rounds} versions"
    elif status == "failed" and account.scenario.calm:
        yield f"failed though every link came back: {end.data['error']}"
    elif status == "aborted" and not account.aborted:
        yield "aborted by nobody"
