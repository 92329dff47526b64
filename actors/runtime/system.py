"""A system is a node: the scope that owns actors, and the clock, links and counts they share.

`async with System("server") as system:` is structured concurrency: no actor and
no task outlives the block. Leaving it drains what was accepted, last started
first, up to `grace` seconds, then cancels, then reports what was lost. Many
systems may live in one event loop; that is what the simulator is.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from covey.transport import Codec, Envelope, Kind, Link, Record, Registry, TransportError

from .actor import Actor
from .address import Address, checked
from .asks import Sweep, Traced, content, trace_of
from .border import LEASE_S, Border, Forwarder
from .cell import Cell
from .errors import ActorError, ActorFailed, ProtocolError, Stopped, no_record
from .log import log
from .mailbox import Mailbox
from .message import Credit, Down, Fault, Reachable, Reason, type_name
from .ref import Ref
from .statistics import DeadLetter, DeadLetters, SystemStatistics
from .supervision import Restart
from .wire import decode, encode
from .worker import Stack

if TYPE_CHECKING:
    from .wiring import Identity, Listen, Wire, Wiring

A = TypeVar("A", bound=Actor)
T = TypeVar("T")

# Seconds that drain, hooks and child tasks are given before they are cancelled.
GRACE_S: Final = 5.0
# Actors that end in one turn of the loop when they have nothing to do: others want theirs.
DRAINED_AT_ONCE: Final = 64


_trace: ContextVar[str | None] = ContextVar("covey_trace", default=None)


@dataclass(frozen=True, slots=True)
class Event:
    """What an observer sees: a message put in a mailbox, begun, or ended.

    `time` is the loop's clock in seconds. Messages sent while handling one carry its `trace`.
    """

    stage: Literal["enqueue", "start", "end"]
    address: str
    message: str
    trace: str
    time: float


def runtime_messages() -> tuple[type[Record], ...]:
    """The runtime's own messages, to be added to every registry."""
    return (Down, Fault, Credit, Reachable)


class System:
    """A node of the actor system.

    Args:
        name: The node's name, the first part of its actors' addresses.
        registry: The closed table of messages that may cross its links.
        seed: Seeds `rng`, from which backoff jitter and actors' randomness are drawn.
        observer: Sees every message enqueued, started and ended; None costs nothing.
        check_codec: Send every local message through the codec too (for tests): what
            passes here passes over any link.
        grace: Seconds for draining, stop hooks and child tasks before they are cancelled.
        lease: Seconds a lost link may stay lost before its watchers are told.
        connect: The parent's URL (see `Endpoint.parse`): entering the block returns when the first
            session is open, and keeps one for as long as the system lives.
        listen: Where to listen for children, as `host:port`, or `:port` for all addresses; or
            several addresses, each with what it serves.
        identity: Who this node is and whom it believes; None for plaintext on this host alone.
        wire: Bounds on what peers may send; None for the defaults.
        carriers: Peers that may speak for nodes behind them; None for what `identity` says.
        forwarder: Makes what hands on envelopes for other nodes, on a relay.
    """

    def __init__(
        self,
        name: str,
        *,
        registry: Registry | None = None,
        seed: int | None = None,
        observer: Callable[[Event], None] | None = None,
        check_codec: bool = False,
        grace: float = GRACE_S,
        lease: float = LEASE_S,
        connect: str | None = None,
        listen: str | Sequence[Listen] = (),
        identity: Identity | None = None,
        wire: Wire | None = None,
        carriers: Collection[str] | None = None,
        forwarder: Callable[[System], Forwarder] | None = None,
    ) -> None:
        """Make a system; entering its block starts it.

        Raises:
            ValueError: A name or an address is none, or there is no registry where one is needed.
        """
        self.name = checked(name)
        self.registry = registry
        self._seed = seed
        self._rng: random.Random | None = None
        self.observer = observer
        self.grace = grace
        self.cells: dict[str, Cell] = {}
        # Of actors that live, or have ended in this turn of the loop.
        self.workers: set[asyncio.Task[None]] = set()
        self.failures: list[ActorFailed] = []
        self.dead_letters = DeadLetters(self._log_letter)
        self._codec = Codec(registry) if check_codec and registry is not None else None
        if check_codec and registry is None:
            raise ValueError("check_codec needs the registry of the messages to be checked")
        # Whether local messages may take the shortest way.
        self.direct = observer is None and self._codec is None
        self._traces = itertools.count(1)
        self._lease = lease
        self._carriers = carriers
        self._forwarder = forwarder
        self.wiring: Wiring | None = None
        if connect is not None or listen:
            # Not above: TLS and all that takes time to import, and simulated systems need none.
            from .loopback import LOOPBACK
            from .wiring import Listen, Wire, Wiring

            listens = [Listen(listen)] if isinstance(listen, str) else listen
            self.wiring = Wiring(self, connect, listens, identity or LOOPBACK, wire or Wire())
        self._closing = False
        self.aborted = False
        self.served = 0
        self.stack = Stack()
        self.accepted: asyncio.Future[None]
        self.loop: asyncio.AbstractEventLoop
        self.sweep: Sweep
        self.border: Border

    def __repr__(self) -> str:
        return f"<system {self.name}: {len(self.cells)} actors, {len(self.border.links)} links>"

    async def __aenter__(self) -> System:
        self.loop = asyncio.get_running_loop()
        self.sweep = Sweep(self.loop)
        self.accepted = self.loop.create_future()
        self.accepted.set_result(None)
        self.border = Border(self, self._lease)
        if self._forwarder is not None:
            self.border.forwarder = self._forwarder(self)
        if self.wiring is not None:
            try:
                await self.wiring.open(self._lease)
            except BaseException:
                self._close()
                await self.wiring.close()
                raise
        return self

    @property
    def port(self) -> int:
        """The TCP port that it listens on, the first one if there are several.

        Raises:
            RuntimeError: It listens nowhere.
        """
        if self.wiring is None or not self.wiring.listeners:
            raise RuntimeError(f"{self.name} listens nowhere: give it listen=")
        return self.wiring.listeners[0].port

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain()
        if error is None and self.failures:
            raise self.failures[0]

    @property
    def rng(self) -> random.Random:
        """The system's source of randomness, made when first used: it takes 2.5 KB."""
        if self._rng is None:
            self._rng = random.Random(self._seed)
        return self._rng

    # Actors ----------------------------------------------------------------

    async def spawn(
        self,
        factory: Callable[[], A],
        *,
        name: str,
        mailbox: Mailbox | None = None,
        restart: Restart | None = None,
    ) -> Ref[A]:
        """Start an actor and return once its `started` is done.

        `factory` makes the actor anew at each restart. Raises what the first
        `started` raises, `ValueError` where the name is taken, `Stopped` while the
        system drains. An actor past its restart budget that nobody watches makes
        leaving the system's block raise `ActorFailed`.
        """
        return await self.start(factory, name, mailbox, restart, None)

    async def start(
        self,
        factory: Callable[[], A],
        name: str,
        mailbox: Mailbox | None,
        restart: Restart | None,
        parent: Cell | None,
    ) -> Ref[A]:
        """Start an actor under `parent` (None: the system itself)."""
        if isinstance(factory, Actor):
            raise TypeError(f"spawn takes a factory, not an instance: use {type(factory).__name__}")
        address = Address(self.name, checked(name))
        if self._closing:
            raise Stopped(str(address), "the system is closing")
        if name in self.cells:
            raise ValueError(f"{address} exists already")
        cell = Cell(self, address, factory, mailbox or Mailbox(), restart or Restart(), parent)
        self.cells[name] = cell
        if parent is not None:
            parent.children[name] = cell
        try:
            ready = cell.begin()
        except BaseException:
            self.forget(cell)
            raise
        if ready is not None:
            try:
                await ready
            except asyncio.CancelledError:
                cell.cancel("its starter was cancelled")
                raise
        return Ref(self, address, cell)

    def lookup(self, address: Address | str, kind: type[A]) -> Ref[A]:
        """A reference to an actor by address, here or on any node; nothing is checked yet."""
        del kind  # it types the reference
        if isinstance(address, str):
            address = Address.parse(address)
        return Ref(
            self, address, self.cells.get(address.name) if address.node == self.name else None
        )

    def ref(self, cell: Cell) -> Ref[Any]:
        """A reference to an actor of this system."""
        return Ref(self, cell.address, cell)

    async def stop(self, ref: Ref[Any], reason: str = "stopped") -> None:
        """Stop a local actor and wait for its end; what is queued becomes dead letters.

        `reason` is handed to its `stopping`.
        """
        cell = self.cells.get(ref.address.name)
        if cell is not None and ref.address.node == self.name:
            await cell.halt(reason)

    def forget(self, cell: Cell) -> None:
        """Drop an ended actor from the tables."""
        if self.cells.get(cell.address.name) is cell:
            del self.cells[cell.address.name]
        if cell.parent is not None:
            cell.parent.children.pop(cell.address.name, None)

    # Watching --------------------------------------------------------------

    def watch(self, watcher: Cell, ref: Ref[Any]) -> None:
        """Deliver one `Down` to `watcher` when `ref` ends."""
        if ref.address.node != self.name:
            watcher.watching[ref.text] = ref
            self.border.watch(watcher.address, ref, watcher.down)
            return
        cell = self.cells.get(ref.address.name)
        if cell is None or cell.queue.closed:
            watcher.down(Down(ref.text, Reason.STOPPED))
        else:
            cell.watchers[watcher.address] = watcher.down
            watcher.watching[ref.text] = ref

    def unwatch(self, watcher: Cell, ref: Ref[Any]) -> None:
        """Take a watch back."""
        watcher.watching.pop(ref.text, None)
        if ref.address.node != self.name:
            self.border.unwatch(watcher.address, ref)
        elif (cell := self.cells.get(ref.address.name)) is not None:
            cell.watchers.pop(watcher.address, None)

    # Links -----------------------------------------------------------------

    def attach(self, link: Link, *, default: bool = False) -> None:
        """Use `link` for its peer's node; as `default`, for all nodes without one of their own."""
        self.border.attach(link, default)

    def reaches(self, node: str) -> bool:
        """Whether a link leads to a node, or was lost so lately that it may come back."""
        return node == self.name or self.border.reaches(node)

    def carries(self, peer: str) -> bool:
        """Whether a peer may speak for nodes behind it."""
        if self._carriers is not None:
            return peer in self._carriers
        return self.wiring is not None and self.wiring.carries(peer)

    def revoke(self, node: str, why: str) -> None:
        """End the sessions of a node that its listeners will not let in any more; it is told why.

        Whether it is let in is the identity's to decide: see docs/connections.md.
        """
        if self.wiring is not None:
            self.wiring.revoke(node, why)

    def next_turn(self, done: asyncio.Future[T]) -> asyncio.Future[T]:
        """A future that gets the outcome of one that is done in the next turn of the loop."""
        future: asyncio.Future[T] = self.loop.create_future()
        self.loop.call_soon(_hand_on, done, future)
        return future

    # Messages on their way -------------------------------------------------

    def checked(self, message: Any) -> Any:
        """In a codec-checking system, the message as the other end of a link would see it.

        Messages without a wire id stay in one system and are left alone.
        """
        if self._codec is None or getattr(message, "wire_id", 0) == 0:
            return message
        try:
            frame = encode(self._codec, Envelope(Kind.TELL, message=message))
        except TransportError as error:
            raise ProtocolError(str(error)) from error
        return decode(self._codec, frame).message

    def crossing(self, message: Any, reply: Any) -> tuple[Any, ActorError | None]:
        """The reply to `message` as the asker sees it, or why it could not cross a link."""
        if self._codec is None or reply is None or getattr(message, "wire_id", 0) == 0:
            return reply, None
        if not isinstance(reply, Record):
            return None, no_record(reply)
        try:
            return self.checked(reply), None
        except ProtocolError as error:
            return None, error

    def prepare(self, text: str, message: Any, *, local: bool) -> Any:
        """A message as it goes on the long way: through the codec, with its trace."""
        if local:
            message = self.checked(message)
        if self.observer is None:
            return message
        item = Traced(message, _trace.get() or self.new_trace())
        self.observed("enqueue", text, item)
        return item

    def observed(self, stage: Literal["enqueue", "start", "end"], text: str, item: Any) -> None:
        """Tell the observer; bind the trace for what the handler sends."""
        if self.observer is None:
            return
        trace = trace_of(item) or self.new_trace()
        if stage != "enqueue":
            _trace.set(trace if stage == "start" else None)
        self.observer(Event(stage, text, type_name(content(item)), trace, self.loop.time()))

    def new_trace(self) -> str:
        """A trace that no other message of this system has."""
        return f"{self.name}-{next(self._traces)}"

    # Logs, counts, end -----------------------------------------------------

    def log_failure(self, actor: str, error: BaseException, pause: float | None) -> None:
        """Log an actor's failure and what becomes of it."""
        log.warning(
            "actor.failed",
            actor=actor,
            error=repr(error),
            restart_in_s=None if pause is None else round(pause, 3),
        )

    def _log_letter(self, letter: DeadLetter) -> None:
        # One line for the first of a kind, then one for each power of two: a
        # flood of dead letters must not become a flood of lines.
        count = self.dead_letters.counts[letter.reason]
        if count & (count - 1) == 0:
            log.info(
                "dead_letter",
                reason=letter.reason,
                actor=letter.address,
                message=letter.message,
                count=count,
            )

    def statistics(self) -> SystemStatistics:
        """A snapshot of everything alive."""
        return SystemStatistics(
            name=self.name,
            actors=tuple(cell.statistics() for cell in self.cells.values()),
            asks=len(self.sweep.pending),
            dead_letters=dict(self.dead_letters.counts),
            links=self.border.statistics(),
        )

    async def drain(self) -> None:
        """End all actors in reverse start order, handling what they had accepted.

        After `grace` seconds in all, what is left is cancelled and its queued
        messages become dead letters ("actor stopped"). Idempotent.
        """
        self._closing = True
        if self.wiring is not None:
            self.wiring.leave()
        self.border.go_away()
        deadline = self.loop.time() + self.grace
        try:
            while self.cells:  # the last one each time: draining actors may start others
                cell = next(reversed(self.cells.values()))
                cell.drain()
                await cell.over(deadline - self.loop.time(), "drain ran out of time")
                if not len(self.cells) % DRAINED_AT_ONCE:
                    await asyncio.sleep(0)
            if self.workers:  # their actors have ended; they take notice
                await asyncio.wait(self.workers, timeout=self.grace)
        except asyncio.CancelledError:
            await self._cancel_all("the system's end was cancelled")
            raise
        finally:
            self._close()
            if self.wiring is not None:
                await self.wiring.close()

    async def abort(self) -> None:
        """End as a crash would, without draining and without hooks; for simulations."""
        self._closing = True
        self.aborted = True
        if self.wiring is not None:
            self.wiring.leave()
        self.border.close()
        await self._cancel_all("crashed")
        self._close()
        if self.wiring is not None:
            await self.wiring.close()

    async def _cancel_all(self, reason: str) -> None:
        for cell in list(self.cells.values()):
            cell.cancel(reason)
        while self.cells:
            await next(iter(self.cells.values())).over(self.grace, reason)

    def _close(self) -> None:
        self.border.close()
        self.sweep.close(lambda text: Stopped(text, f"{self.name} has closed"))


def _hand_on(done: asyncio.Future[T], future: asyncio.Future[T]) -> None:
    if future.done():
        return
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    else:
        future.set_exception(error)
