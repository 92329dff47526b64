"""The site: the actor that stands for one organisation, on a node of its own or beside others.

It registers with the server over the one link that the site opened, and makes
one trainer per job. What a trainer runs, and how, is settled here at the site
and never by a message. Death watch tells it of a job that is over although
nobody could say so, and of a server that was lost for longer than the lease:
then it registers again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..runtime import Actor, ActorError, Address, Down, Mailbox, Ref, Restart, handles
from .batch_trainer import BatchTrainer
from .messages import Deploy, Deployed, Register, Retire, Retired
from .trainer import LAST_LINES_S, QUIT_S, SCRIPT_GRACE_S, Quit, Trainer, TrainerSettings

if TYPE_CHECKING:
    from .server import Server

# A registration is answered at once; a lost one is sent again after this.
REGISTER_TIMEOUT_S = 10.0
# Between two tries, doubled up to the second number.
RETRY_S = (0.2, 5.0)


class Site(Actor):
    """Registers its site and makes trainers."""

    def __init__(
        self, name: str, server: Ref[Server], trainer: Callable[[str], TrainerSettings]
    ) -> None:
        """Stand for site `name`; `trainer` gives the settings of the trainer of a job."""
        self._name = name
        self._server = server
        self._settings = trainer
        self._trainers: dict[str, Ref[Trainer]] = {}
        # Whose end is watched: the jobs' ids by their addresses.
        self._jobs: dict[str, str] = {}

    async def started(self) -> None:
        """Register, for as long as it takes."""
        self.ctx.run(self._register(), lambda _: None)

    async def _register(self) -> None:
        register = Register(self._name, self.ctx.ref.text)
        pause, longest = RETRY_S
        while True:
            try:
                await self._server.ask(register, timeout=REGISTER_TIMEOUT_S)
            except ActorError:
                await asyncio.sleep(pause * self.ctx.rng.uniform(0.5, 1.5))
                pause = min(longest, pause * 2)
            else:
                self.ctx.watch(self._server)
                return

    @handles
    async def deploy(self, msg: Deploy) -> Deployed:
        """Make the trainer of a job, or name the one there is."""
        from .job import Job  # not above: a job names sites, and sites name jobs

        trainer = self._trainers.get(msg.job)
        if trainer is None:
            settings = self._settings(msg.job)
            job = self.ctx.system.lookup(Address.parse(msg.reply_to), Job)
            kind = Trainer if settings.batches is None else BatchTrainer
            trainer = await self.ctx.spawn(
                lambda: kind(settings, job, msg.job),
                name=f"trainer-{msg.job}-{msg.attempt}",
                mailbox=Mailbox(16),
                # A script does not survive its trainer, so neither does the job here.
                restart=Restart.never(),
            )
            self._trainers[msg.job] = trainer
            self._jobs[msg.reply_to] = msg.job
            self.ctx.watch(trainer)
            self.ctx.watch(job)
        return Deployed(trainer.text)

    @handles
    async def retire(self, msg: Retire) -> Retired:
        """Stop the trainer of a job that is over; withdrawn, it kills a script that is left."""
        return await self._end(msg.job, Quit(msg.kill, LAST_LINES_S))

    async def _end(self, job: str, quit: Quit) -> Retired:
        trainer = self._trainers.pop(job, None)
        if trainer is None:
            return Retired()
        try:
            # Not by stopping it alone: the system's grace is too short for last lines.
            return await trainer.ask(quit, timeout=quit.grace_s + QUIT_S)
        except ActorError:
            return Retired()
        finally:
            await self.ctx.system.stop(trainer, "killed")

    @handles
    async def down(self, msg: Down) -> None:
        """Act on the end, or the loss, of the server, a job, or a trainer."""
        if msg.address == self._server.text:
            self.ctx.run(self._register(), lambda _: None)
        elif msg.address in self._jobs:
            # Nobody waits for what a script has to say.
            await self._end(self._jobs.pop(msg.address), Quit(kill=False, grace_s=SCRIPT_GRACE_S))
        else:
            for job, trainer in self._trainers.items():
                if trainer.text == msg.address:
                    del self._trainers[job]
                    return
