"""A federation of the real roles in virtual time, on a network and nodes that fail.

Here: what is drawn for a seed, the nodes, the faults that strike them, and an
account of one run. Not here: what its scripts do (`arithmetic.py`), what must
hold of an account (`verdict.py`).
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

from covey.actors.downloads.blobs import Blob, Blobs, Rid
from covey.actors.jobs.checkpoint import MODEL, Checkpoint
from covey.actors.jobs.launchers.script import OnMetric, Script
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.roles.job import Abort, Job
from covey.actors.roles.messages import role_messages
from covey.actors.roles.plan import JobPlan, Progress
from covey.actors.roles.server import RunJob, Server
from covey.actors.roles.site import Site
from covey.actors.roles.synchronous import SynchronousTraining
from covey.actors.roles.trainer import TrainerSettings
from covey.actors.runtime import ActorError, Ref, Rejected, System, runtime_messages
from covey.actors.runtime.system import Event
from covey.actors.runtime.testing import EventHash, SimulatedNetwork, simulate
from covey.algorithms import BestModel, FedAvg
from covey.transport import Registry

from .arithmetic import TROUBLES, ArithmeticScript, Ledger, Manner, beginning, blob_of, layout

#: What strikes: a link lost (once, or thrice in a row), some sites cut off for a while
#: or for longer than the lease, a site's node crashed and started again or not.
FaultKind: TypeAlias = Literal["loss", "flap", "partition", "outage", "crash", "death"]
FAULTS: Final[tuple[FaultKind, ...]] = ("loss", "flap", "partition", "outage", "crash", "death")
#: Faults that no round may lose an update to.
HARMLESS: Final[tuple[FaultKind, ...]] = ("loss", "flap", "partition")

#: A run that takes longer, in virtual seconds, waits for something that never comes.
LONGEST_S: Final = 10_000.0

#: What finding out that a link is lost, and dialling again, may add to a partition.
NOTICE_S: Final = 5.0

REGISTRY: Final = Registry(*runtime_messages(), *role_messages())


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that is drawn for a seed.

    Attributes:
        seed: The seed.
        sites: Names of the sites.
        rounds: Rounds to train.
        minimum: Results without which a round fails.
        faults: The kinds that strike.
        pause_s: Seconds between two strikes.
        delay_s: Mean seconds an envelope flies.
        lease_s: Seconds after which a lost node counts as gone.
        deadline_s: Seconds for a task, None for any time.
        restart: Whether each task gets a script of its own.
        slots: Scripts that may be at work at once.
        abort_s: When the job is aborted, None for never.
        calm: Whether nothing strikes that may cost an update.
        manner: How scripts behave.
    """

    seed: int
    sites: tuple[str, ...]
    rounds: int
    minimum: int
    faults: tuple[FaultKind, ...]
    pause_s: tuple[float, float]
    delay_s: float
    lease_s: float
    deadline_s: float | None
    restart: bool
    slots: int
    abort_s: float | None
    calm: bool
    manner: Manner

    @classmethod
    def draw(cls, seed: int) -> Scenario:
        """Draw one; one in four has harmless faults only and scripts without trouble."""
        rng = random.Random(f"scenario/{seed}")
        sites = tuple(f"site-{number}" for number in range(rng.randint(3, 6)))
        calm = rng.random() < 0.25
        faults = HARMLESS if calm else tuple(rng.sample(FAULTS, rng.randint(1, len(FAULTS))))
        return cls(
            seed=seed,
            sites=sites,
            rounds=rng.randint(2, 5),
            minimum=len(sites) if calm or rng.random() < 0.1 else rng.randint(1, 2),
            faults=faults,
            pause_s=rng.choice([(0.2, 4.0), (1.0, 20.0), (10.0, 60.0)]),
            delay_s=rng.choice([0.02, 0.3, 1.5]),
            lease_s=180.0 if calm else rng.choice([30.0, 180.0]),
            deadline_s=None if calm or rng.random() < 0.8 else 60.0,
            restart=rng.random() < 0.3,
            slots=rng.choice([1, 3, 100]),
            abort_s=None if calm or rng.random() < 0.9 else rng.uniform(0, 200),
            calm=calm,
            manner=Manner(
                seed=seed,
                sites=sites,
                busy_s=rng.choice([(0.0, 1.0), (1.0, 60.0)]),
                slow=frozenset(site for site in sites if rng.random() < 0.2),
                trouble=0.0 if calm else rng.choice([0.0, 0.05, 0.15]),
                troubles=TROUBLES,
                mortal=rng.random() < 0.5,
                evaluates=rng.random() < 0.3,
            ),
        )


@dataclass(slots=True)
class Account:
    """What one run came to.

    Attributes:
        scenario: What was drawn.
        ledger: What happened at the scripts.
        events: The run's events.
        crashed: Faults of the job actor itself.
        model: The final model's bytes.
        struck: Faults by kind, and what they did.
        harmed: Sites that a crash, a death or an outage struck.
        aborted: Whether an abort was asked for.
        messages: Messages put in mailboxes, by type.
        left: What was still pending long after the end.
        seconds: Virtual seconds.
        events_hash: Hash of all actors' events.
    """

    scenario: Scenario
    ledger: Ledger = field(default_factory=Ledger)
    events: list[RunEvent] = field(default_factory=list[RunEvent])
    crashed: list[str] = field(default_factory=list[str])
    model: bytes = b""
    struck: Counter[str] = field(default_factory=Counter[str])
    harmed: set[str] = field(default_factory=set[str])
    aborted: bool = False
    messages: Counter[str] = field(default_factory=Counter[str])
    left: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    events_hash: str = ""


def run(seed: int) -> Account:
    """Run the scenario of a seed to its end."""
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        federation = Federation(Scenario.draw(seed), Path(folder))
        return simulate(federation.run, seed=seed)


def _fast_folder() -> str | None:
    """A folder in memory, if there is one: each round waits for its file to be on disk."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() else None


class NodeBlobs(Blobs):
    """A site's side of the table of blobs; what it holds is gone with its node."""

    def __init__(self, shared: Blobs) -> None:
        super().__init__()
        self._shared = shared
        self._own: dict[Rid, None] = {}

    def register(self, blob: Blob) -> Rid:
        rid = self._shared.register(blob)
        self._own[rid] = None
        return rid

    def open(self, rid: bytes) -> Blob:
        return self._shared.open(rid)

    def release(self, rid: bytes) -> None:
        self._own.pop(Rid(rid), None)
        self._shared.release(rid)

    def close(self) -> None:
        for rid in tuple(self._own):
            self.release(rid)


class Federation:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.account = Account(scenario)
        self._folder = folder
        self._blobs = Blobs()
        self._nodes = {site: NodeBlobs(self._blobs) for site in scenario.sites}
        self._hash = EventHash()
        self._done = asyncio.Event()
        self._down: set[str] = set()
        self._returns: list[asyncio.Task[None]] = []
        self._rng = random.Random(f"faults/{scenario.seed}")
        self._network: SimulatedNetwork

    async def run(self) -> Account:
        """Run the job under faults, let the weather clear, and look at what is left."""
        scenario, account = self.scenario, self.account
        self._slots = asyncio.Semaphore(scenario.slots)
        async with SimulatedNetwork(
            seed=scenario.seed,
            registry=REGISTRY,
            delay=lambda rng: rng.expovariate(1 / scenario.delay_s),
        ) as network:
            self._network = network
            await network.start("server", self._serve, make=partial(self._system, "server"))
            for site in scenario.sites:
                enrol = partial(self._enrol, site)
                make = partial(self._system, site)
                await network.start(site, enrol, uplink="server", make=make)
            await self._train()
            await self._clear_up()
        account.seconds = asyncio.get_running_loop().time()
        account.events_hash = self._hash.hexdigest()
        account.model = (self._folder / MODEL).read_bytes()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        account.left.extend(f"task {task.get_name()}" for task in tasks)
        return account

    # Nodes -----------------------------------------------------------------

    def _system(self, name: str) -> System:
        seed, lease = self.scenario.seed, self.scenario.lease_s
        return System(name, registry=REGISTRY, seed=seed, observer=self._observe, lease=lease)

    def _observe(self, event: Event) -> None:
        self._hash(event)
        if event.stage == "enqueue":
            self.account.messages[event.message] += 1

    async def _serve(self, system: System) -> None:
        await system.spawn(Server, name="server")

    async def _enrol(self, site: str, system: System) -> None:
        server = system.lookup("server/server", Server)
        settings = partial(self._settings, site)
        await system.spawn(lambda: Site(site, server, settings), name="site")

    def _settings(self, site: str, job: str) -> TrainerSettings:
        del job
        scenario = self.scenario

        async def start(on_metric: OnMetric) -> Script:
            await asyncio.sleep(0.5)
            return ArithmeticScript(site, scenario.manner, self.account.ledger, on_metric)

        return TrainerSettings(
            site=site,
            start=start,
            blobs=self._nodes[site],
            slots=self._slots,
            warm=not scenario.restart,
            restart=scenario.restart,
        )

    # The job ---------------------------------------------------------------

    async def _train(self) -> None:
        weather = asyncio.ensure_future(self._weather())
        try:
            async with asyncio.timeout(LONGEST_S):
                job = await self._submit(self._plan())
                abort = asyncio.ensure_future(self._abort(job))
                await self._done.wait()
                abort.cancel()
        except TimeoutError:
            self.account.left.append("the job itself")
        finally:
            weather.cancel()
            await asyncio.wait([weather])

    async def _submit(self, plan: JobPlan) -> Ref[Job]:
        """Start the job once all sites have registered."""
        server = self._network.system("server").lookup("server/server", Server)
        while True:
            try:
                return await server.ask(RunJob(plan))
            except Rejected:
                await asyncio.sleep(1)

    async def _abort(self, job: Ref[Job]) -> None:
        if self.scenario.abort_s is not None:
            await asyncio.sleep(self.scenario.abort_s)
            self.account.aborted = True
            await _attempt(lambda: job.tell(Abort("drawn")))

    def _plan(self) -> JobPlan:
        scenario = self.scenario
        checkpoint = Checkpoint(self._folder)
        checkpoint.path(0).write_bytes(blob_of(beginning(len(scenario.sites))))
        progress = Progress(BestModel("round", "max"))
        checkpoint.commit(0, progress.state())
        return JobPlan(
            id="job",
            name="simulated",
            sites=scenario.sites,
            minimum=scenario.minimum,
            rounds=scenario.rounds,
            rule=FedAvg(),
            layout=layout(len(scenario.sites)),
            blobs=self._blobs,
            checkpoint=checkpoint,
            version=0,
            progress=progress,
            record=self._record,
            crashed=self._crashed,
            training=SynchronousTraining,
            task_deadline_s=scenario.deadline_s,
        )

    def _record(self, event: RunEvent) -> None:
        self.account.events.append(event)
        if event.kind is EventKind.RUN_FINISHED:
            self._done.set()

    def _crashed(self, detail: str) -> None:
        self.account.crashed.append(detail)
        self._done.set()

    # Faults ----------------------------------------------------------------

    async def _weather(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(*self.scenario.pause_s))
            await self._strike(self._rng.choice(self.scenario.faults))

    async def _strike(self, fault: FaultKind) -> None:
        up = [site for site in self.scenario.sites if self._linked(site)]
        if not up:
            return
        site = self._rng.choice(up)
        match fault:
            case "loss":
                self._lose(site)
            case "flap":
                for _ in range(3):
                    self._lose(site)
                    await asyncio.sleep(self._rng.uniform(0.1, 3))
            case "partition":
                self._cut_off(self._some(up), self._rng.uniform(1, 60))
            case "outage":
                self._cut_off(self._some(up), self.scenario.lease_s + self._rng.uniform(-3, 30))
            case "crash":
                await self._crash(site, self._rng.choice([2.0, 20.0, 2 * self.scenario.lease_s]))
            case "death":
                # A job starts when all its sites are there; one death is enough.
                if self.account.events and self.account.struck["death"] == 0:
                    await self._crash(site, None)
                else:
                    return
        self.account.struck[fault] += 1

    def _linked(self, site: str) -> bool:
        return site not in self._down and bool(self._network.system(site).border.links)

    def _some(self, sites: list[str]) -> list[str]:
        return self._rng.sample(sites, self._rng.randint(1, len(sites)))

    def _lose(self, site: str) -> None:
        if site not in self._down:
            self._count_lost(site)
            self._network.lose(site, "server")

    def _count_lost(self, site: str) -> None:
        """Count what is under way on a link that is about to break."""
        for here, there in ((site, "server"), ("server", site)):
            link = self._network.system(here).border.links.get(there)
            if link is not None:
                self.account.struck["envelopes lost"] += link.statistics().queued

    def _cut_off(self, sites: list[str], seconds: float) -> None:
        if seconds > self.scenario.lease_s - NOTICE_S:
            self.account.harmed.update(sites)
        for site in sites:
            self._count_lost(site)
        self._network.partition(sites, ["server"])
        asyncio.get_running_loop().call_later(seconds, self._network.heal)

    async def _crash(self, site: str, back_s: float | None) -> None:
        self.account.harmed.add(site)
        self._down.add(site)
        self._count_lost(site)
        await self._network.crash(site)
        self._nodes[site].close()
        if back_s is not None:
            self._returns.append(asyncio.ensure_future(self._return(site, back_s)))

    async def _return(self, site: str, seconds: float) -> None:
        await asyncio.sleep(self._rng.uniform(0, seconds))
        await self._network.restart(site)
        self._down.discard(site)

    # The end ---------------------------------------------------------------

    async def _clear_up(self) -> None:
        """Give everything more than the time it may take; note what is still there."""
        self._network.heal()
        await asyncio.sleep(3 * self.scenario.lease_s + 300)
        if self._returns:
            await asyncio.wait(self._returns)
        left = self.account.left
        systems = {
            name: self._network.system(name)
            for name in ("server", *self.scenario.sites)
            if name not in self._down
        }
        for name, system in systems.items():
            left.extend(f"actor {each}" for each in system.cells if each not in ("server", "site"))
            statistics = system.statistics()
            left.extend(f"child tasks of {a.address}" for a in statistics.actors if a.tasks)
            if statistics.asks:
                left.append(f"{statistics.asks} asks of {name}")
        held = self._blobs.statistics().held
        if held != 1:  # the final model
            left.append(f"{held} blobs")


async def _attempt(work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except ActorError:
        return
