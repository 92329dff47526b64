"""A client's own process: from its link to the end of its script.

Here: what a process does that runs exactly one script, whether it was forked from the template
or exec'd (`python -P -m covey.actors.jobs.launchers.child FD [MODULE ...]`). Not here: how it
came to be (`template.py`, `spawn.py`), the Client API (`covey.client`).
"""

from __future__ import annotations

import atexit
import faulthandler
import importlib
import io
import logging
import os
import select
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn, cast

from covey.client.errors import RunEnded
from covey.client.messages import Ended, Failed, Welcome, messages
from covey.client.running import ScriptSession
from covey.client.seeding import derive, seed_everything
from covey.client.session import install
from covey.transport import BlockingLink, Codec, Envelope, Kind, LinkClosed, Record

from .execute import describe, execute, exit_code, main_module, search_path, traceback_text
from .lastwords import ErrorStream
from .limits import LINK_LIMITS, ORPHANED
from .preload import import_all

#: Made once, before any fork; after one, each process has its own.
_CODEC: Final = Codec(messages(), LINK_LIMITS)


class LinkChannel:
    """A session's channel over a link of its own. When the link ends, so does the process."""

    def __init__(self, link: BlockingLink) -> None:
        self._link = link

    def send(self, message: Record, fds: tuple[int, ...] = ()) -> None:
        """Send a message; from any thread."""
        try:
            self._link.send(Envelope(Kind.TELL, message=message, fds=fds))
        except LinkClosed:
            _leave_at_once()

    def receive(self, timeout_s: float | None) -> Record:
        """Wait for the next message; raises `TimeoutError`."""
        try:
            message = self._link.receive(timeout_s).message
        except LinkClosed:
            _leave_at_once()
        if message is None:
            raise RunEnded("an empty message came")
        return message


def run(link_fd: int) -> NoReturn:
    """Run the script that the link's other end names, and leave the process."""
    link = BlockingLink(socket.socket(fileno=link_fd), _CODEC, "trainer")
    channel = LinkChannel(link)
    welcome = channel.receive(None)
    assert isinstance(welcome, Welcome)
    code = _run_script(welcome, channel)
    _leave(code)


def forget_parent() -> None:
    """In a forked child: drop the exit hooks of the template, keep those a script relies on."""
    atexit._clear()
    atexit.register(logging.shutdown)
    util = cast(Any, sys.modules.get("multiprocessing.util"))
    if util is not None:  # what multiprocessing does in the children it forks itself
        util._finalizer_registry.clear()
        atexit.register(util._exit_function)


def use_output(fd: int) -> None:
    """Make a descriptor this process' standard output and error, and close it."""
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    prepare_streams()


def prepare_streams() -> None:
    """Write lines as they are printed, so that a killed script's last words are in the log."""
    for name, stream in (("stdout", _line_stream(1)), ("stderr", ErrorStream(2))):
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    faulthandler.enable(file=2)


def _line_stream(fd: int) -> io.TextIOWrapper:
    # A new object: one made for another kind of file cannot be turned round.
    return open(fd, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _run_script(welcome: Welcome, channel: LinkChannel) -> int:
    """Run the script and report its end; gives the exit code."""
    try:
        _become(welcome)
        install(ScriptSession(welcome, channel))
        module = main_module(welcome.script)
        sys.modules["__main__"] = module
        execute(welcome.script, module)
    except SystemExit as error:
        code = exit_code(error)
        _report(Ended() if code == 0 else describe(error, welcome.script), channel)
        return code
    except BaseException as error:
        sys.stderr.write(traceback_text(error, welcome.script))
        _report(describe(error, welcome.script), channel)
        return 1
    _report(Ended(), channel)
    return 0


def _become(welcome: Welcome) -> None:
    """Take on the identity of one client: folder, environment, arguments, threads, seeds."""
    os.environ.clear()
    os.environ.update(welcome.env)
    os.chdir(welcome.cwd)
    sys.argv = [welcome.script, *welcome.args]
    sys.path[:0] = search_path(welcome.script, welcome.path)
    torch: Any = sys.modules.get("torch")
    if torch is None and welcome.kind == "torch":
        torch = importlib.import_module("torch")
    if torch is not None:
        torch.set_num_threads(welcome.torch_threads)
    seed_everything(derive(welcome.seed, welcome.site))


def _report(message: Ended | Failed, channel: LinkChannel) -> None:
    _flush()
    channel.send(message)


def _leave(code: int) -> NoReturn:
    """End the process as Python would, without taking apart what was inherited.

    Taking the interpreter apart would touch, and so copy, every page shared with the template.
    """
    hooks: tuple[Callable[[], object], ...] = (
        cast(Any, threading)._shutdown,  # waits for the script's own threads
        atexit._run_exitfuncs,
    )
    for hook in hooks:
        try:
            hook()
        except BaseException:
            traceback.print_exc()
    _flush()
    os._exit(code)


def _leave_at_once() -> NoReturn:
    _flush()
    os._exit(ORPHANED)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed or replaced by the script: its own affair
            stream.flush()


def _leave_with_parent(link_fd: int) -> None:
    """Watch the link from a thread, so that a script at work ends when its run dies.

    A forked client needs none: the kernel ends it together with the template.
    """
    poll = select.poll()
    poll.register(link_fd, 0)  # hang-up is always reported
    poll.poll()
    os._exit(ORPHANED)


def main() -> NoReturn:
    """Be the process of one exec'd client."""
    link_fd = int(sys.argv[1])
    os.set_inheritable(link_fd, False)
    prepare_streams()
    threading.Thread(
        target=_leave_with_parent, args=(link_fd,), name="covey-watch", daemon=True
    ).start()
    import_all(sys.argv[2:])
    run(link_fd)


if __name__ == "__main__":
    main()
