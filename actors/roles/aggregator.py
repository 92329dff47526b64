"""The aggregator: the actor that counts each update once and makes the next model.

Updates are named when they come and pulled when the round steps: the fold walks
all of them chunk by chunk in a fixed order (`algorithms.fold`), so that memory
does not grow with their number and the result is the same to the last bit.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from covey.algorithms import (
    Aggregation,
    AlgorithmError,
    BadSetting,
    BadUpdate,
    Contribution,
    FedAvg,
    NonFiniteUpdate,
    UpdateInfo,
    fold,
)
from covey.algorithms.fold import new_state
from covey.algorithms.tensors import Layout, ParamsType
from covey.algorithms.tensors.dtypes import F64

from ..downloads.blobs import Blob, BlobRef, Blobs
from ..downloads.errors import BlobError
from ..jobs.checkpoint import Checkpoint
from ..runtime import Actor, Rejected, handles
from .messages import Begin, Contribute, Counted, Step, Stepped, Update

# Folding this much takes about a millisecond: below it a thread costs more
# than it frees, above it the loop must not wait.
INLINE_BYTES = 4 << 20


class Aggregator(Actor):
    """Counts and folds the updates of one job."""

    def __init__(
        self,
        rule: Aggregation,
        layout: Layout,
        blobs: Blobs,
        checkpoint: Checkpoint,
        sites: Sequence[str],
    ) -> None:
        """Fold by `rule`, in the order of `sites`, into models of `layout` in `checkpoint`."""
        self._sites = tuple(sites)
        self._rule = rule
        rule.begin(len(self._sites))
        self._layout = layout
        self._answers = rule.answers(layout)
        self._blobs = blobs
        self._checkpoint = checkpoint
        self._round = -1
        self._model: BlobRef | None = None
        self._open = False
        # What a server optimizer keeps from round to round, as it is after version `_state_of`.
        self._state = new_state(layout, rule)
        self._state_of = 0
        self._counted: set[tuple[str, int]] = set()
        self._updates: list[tuple[str, Update, float]] = []

    @handles
    def begin(self, msg: Begin) -> None:
        """Expect updates of a round."""
        self._round = msg.round
        self._open = True
        self._model = msg.model
        self._counted.clear()
        self._updates.clear()

    @handles
    def contribute(self, msg: Contribute) -> Counted:
        """Count an update, unless it has counted, comes late, or does not fit."""
        if msg.round != self._round:
            return Counted("late", f"round {msg.round} is over; this is round {self._round}")
        if not self._open:
            return Counted("late", f"round {msg.round} is being aggregated")
        if self._is_repetition(msg):
            return Counted("duplicate")
        try:
            weight = self._rule.weigh(UpdateInfo(msg.site, msg.update.weight))
            check_update(self._blobs, self._answers, msg.update)
        except (AlgorithmError, BlobError) as error:
            return Counted("refused", str(error))
        self._counted.add((msg.site, msg.round))
        self._updates.append((msg.site, msg.update, weight))
        return Counted("accepted")

    def _is_repetition(self, msg: Contribute) -> bool:
        return (msg.site, msg.round) in self._counted

    @handles
    async def step(self, msg: Step) -> Stepped:
        """Fold the round's updates into the next model; leave out what is not finite.

        Raises `Rejected` if nothing is left to fold, or the disk refuses.
        """
        if msg.round != self._round or self._model is None:
            raise Rejected("wrong-round", f"this is round {self._round}, not {msg.round}")
        self._open = False  # what comes now would count without being folded
        updates, unfit = self._pull()
        while updates:
            try:
                await self._offload(msg.round + 1, updates, msg.apart)
            except NonFiniteUpdate as error:
                unfit[error.site] = str(error)
                updates = [update for update in updates if update.site != error.site]
            except (BadSetting, BadUpdate) as error:
                raise Rejected("nothing-to-aggregate", error.why) from error
            except OSError as error:
                path = self._checkpoint.path(msg.round + 1)
                why = f"cannot write {path}: {os.strerror(error.errno or 0)}"
                raise Rejected("disk", why) from error
            else:
                return self._next_model(msg.round + 1, len(updates), unfit)
        text = "; ".join(unfit.values()) or "no update came in"
        raise Rejected("nothing-to-aggregate", text)

    def _pull(self) -> tuple[list[Contribution], dict[str, str]]:
        """The round's updates in the order of the sites, and whose cannot be had any more."""
        taken = {site: (update, weight) for site, update, weight in self._updates}
        updates: list[Contribution] = []
        gone: dict[str, str] = {}
        for site in self._sites:
            if site not in taken:
                continue
            update, weight = taken[site]
            assert update.tensors is not None  # checked when it was counted
            try:
                buffer = self._blobs.open(update.tensors.rid).buffer
            except BlobError as error:
                gone[site] = f"its update is gone: {error}"
            else:
                updates.append(Contribution(site, weight, ParamsType(update.params_type), buffer))
        return updates, gone

    def _next_model(self, version: int, folded: int, unfit: dict[str, str]) -> Stepped:
        blob = Blob.of_file(self._checkpoint.path(version))
        model = BlobRef(self._blobs.register(blob), blob.size)
        return Stepped(model, folded, unfit)

    async def _offload(self, version: int, updates: list[Contribution], apart: bool) -> None:
        unwanted = threading.Event()
        if len(updates) * self._layout.size <= INLINE_BYTES:
            self._fold(version, updates, unwanted, apart)
            return
        try:
            await asyncio.to_thread(self._fold, version, updates, unwanted, apart)
        finally:
            unwanted.set()  # cancelled, nobody waits for the thread any more

    def _fold(
        self, version: int, updates: list[Contribution], unwanted: threading.Event, apart: bool
    ) -> None:
        def check() -> None:
            if unwanted.is_set():
                raise asyncio.CancelledError

        assert self._model is not None
        old = self._blobs.open(self._model.rid).buffer
        # A fold that fails leaves the state worthless, and is made again without an update.
        state = self._state_after(version - 1)
        with self._checkpoint.writing(version) as fd:
            fold(
                old,
                self._layout,
                updates,
                self._rule,
                partial(write_all, fd),
                state=state,
                number=version,
                checkpoint=check,
            )
        if apart:
            self._write_apart(old, updates, check)
        self._checkpoint.save_arrays(version, state)
        self._state, self._state_of = state, version

    def _write_apart(
        self, old: memoryview, updates: list[Contribution], check: Callable[[], None]
    ) -> None:
        """Write each site's own model, whole: an update may be a difference, or lack variables."""
        alone = FedAvg(exclude_vars=self._rule.excluded)
        for update in updates:
            only = replace(update, weight=1.0)
            with self._checkpoint.writing_local(update.site) as fd:
                write = partial(write_all, fd)
                fold(old, self._layout, [only], alone, write, checkpoint=check)

    def _state_after(self, version: int) -> dict[str, F64]:
        """A copy of what the rule kept after a version, from disk where a run goes on."""
        if self._state_of != version:
            self._checkpoint.load_arrays(version, self._state)
        return {name: array.copy() for name, array in self._state.items()}


def check_update(blobs: Blobs, layout: Layout, update: Update) -> Blob:
    """The blob of an update whose header is `layout`'s, the one that fits.

    Raises:
        BadUpdate: It has no parameters, or others than the model; `ManifestMismatch` names them.
        UnknownBlob: It is not there any more.
    """
    if update.tensors is None:
        raise BadUpdate("", "the update has no parameters; send FLModel(params=...)")
    blob = blobs.open(update.tensors.rid)
    head = blob.buffer[: layout.data_start]
    if blob.size != layout.size or bytes(head) != layout.header:
        Layout.parse(blob.buffer, size=blob.size).check(layout)
        raise BadUpdate("", "its tensors are not in the model's order")
    return blob


def write_all(fd: int, data: memoryview) -> None:
    """Write everything, as `os.write` may take less than it is given."""
    while data:
        data = data[os.write(fd, data) :]
