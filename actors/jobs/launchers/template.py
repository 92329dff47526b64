"""The template: a process that imports once what every client needs, and forks clients.

Here: its side of the control socket: import, fork, kill, reap. Not here: what a forked client
does (`child.py`), the launcher's side (`fork.py`). Run as
`python -P -m covey.actors.jobs.launchers.template FD`.

A fork copies one thread of a process and every lock as it stands; a child of a process with
other threads can wait for ever on a lock whose owner was not copied (OpenMP's pool is the known
case). So the template is exec'd clean with one thread for each numeric library, imports installed
modules only, runs no tensor operation, and checks before each fork that it has one thread.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn

from . import child, control
from .preload import import_one

#: Modules that start threads on use or do not survive a fork; importing one makes the process
#: unfit, even if it has one thread still.
_UNFIT: Final = ("grpc", "tensorflow", "jax", "ray", "cupy", "pycuda", "mpi4py.MPI")

#: While imports run, the end of the launcher is looked for this often.
_ORPHAN_CHECK_S: Final = 0.2

_PR_SET_PDEATHSIG: Final = 1

_prctl: Final[Callable[[int, int], int]] = ctypes.CDLL(None, use_errno=True).prctl


class Forker:
    """The template's work: one poll over the control socket and the children's pidfds.

    Args:
        sock: The template's end of the control socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._pid = os.getpid()
        self._unsafe: tuple[str, str] | None = None
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._clients: dict[int, tuple[int, int]] = {}  # client -> (pid, pidfd)
        self._by_pidfd: dict[int, int] = {}

    def serve(self) -> NoReturn:
        """Answer messages until the launcher is gone; then end, and every client with it."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._socket.fileno():
                    self._take_message()
                elif fd in self._by_pidfd:
                    self._reap(self._by_pidfd[fd])

    def _take_message(self) -> None:
        try:
            received = control.receive(self._socket)
        except ConnectionError:
            received = None
        if received is None:
            self._end()
        message, fds = received
        if isinstance(message, control.Preload):
            self._preload(message)
        elif isinstance(message, control.Fork):
            self._fork(message.client, fds)
        elif isinstance(message, control.Kill):
            self._kill(message.client)

    def _say(self, message: control.Message) -> None:
        try:
            control.send(self._socket, message)
        except ConnectionError:
            self._end()

    def _preload(self, message: control.Preload) -> None:
        began = time.monotonic()
        failed: dict[str, str] = {}
        # Collecting garbage during imports only costs time; what is loaded stays.
        gc.disable()
        signal.signal(signal.SIGALRM, self._end_if_orphaned)
        signal.setitimer(signal.ITIMER_REAL, _ORPHAN_CHECK_S, _ORPHAN_CHECK_S)
        for name in message.modules:
            why = import_one(name)
            if why is not None:
                failed[name] = why[:200]
            self._check_fit(name)
            if self._unsafe is not None:
                break
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        # A collection in a child would write to, and so copy, every page of these objects.
        gc.freeze()
        unsafe, why_unsafe = self._unsafe or (None, "")
        seconds = time.monotonic() - began
        self._say(control.Loaded(message.modules, seconds, failed, unsafe, why_unsafe))

    def _check_fit(self, name: str) -> None:
        why = _why_unfit()
        if why is not None and self._unsafe is None:
            self._unsafe = (name, why)

    def _end_if_orphaned(self, number: int, frame: FrameType | None) -> None:
        poll = select.poll()
        poll.register(self._socket, 0)
        if poll.poll(0):
            self._end()

    def _fork(self, client: int, fds: list[int]) -> None:
        why = _why_unfit()
        if why is None:
            try:
                pid = os.fork()
            except OSError as error:
                why = f"fork failed: {error.strerror}"
            else:
                if pid == 0:
                    self._be_client(*fds)
                self._adopt(client, pid)
        else:
            why = f"the template is not fit to fork: {why}"
        for fd in fds:
            os.close(fd)
        if why is not None:
            self._say(control.Refused(client, why))

    def _be_client(self, link_fd: int, output_fd: int) -> NoReturn:
        """In the child: let go of everything that is the template's, and run a script."""
        try:
            os.setpgid(0, 0)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._pid:
                os._exit(1)
            self._socket.close()
            for _, pidfd in self._clients.values():
                os.close(pidfd)
            child.use_output(output_fd)
            child.forget_parent()
            gc.enable()
            child.run(link_fd)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # never back into the template's loop

    def _adopt(self, client: int, pid: int) -> None:
        # The child does the same: whoever comes first, nobody sees it in the wrong group.
        with suppress(OSError):
            os.setpgid(pid, pid)
        pidfd = os.pidfd_open(pid)
        self._clients[client] = (pid, pidfd)
        self._by_pidfd[pidfd] = client
        self._poll.register(pidfd, select.POLLIN)
        self._say(control.Forked(client, pid))

    def _kill(self, client: int) -> None:
        if client in self._clients:
            pid, _ = self._clients[client]
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _reap(self, client: int) -> None:
        """Take in a child that ended, and end whatever it left behind."""
        pid, pidfd = self._clients.pop(client)
        del self._by_pidfd[pidfd]
        self._poll.unregister(pidfd)
        os.close(pidfd)
        # Before it is reaped: until then its number cannot belong to another group.
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self._say(control.Exited(client, os.waitstatus_to_exitcode(status)))

    def _end(self) -> NoReturn:
        for pid, _ in self._clients.values():
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        os._exit(0)


def _why_unfit() -> str | None:
    """Why this process must not fork, or None."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        return f"it has {threads} threads"
    for name in _UNFIT:
        if name in sys.modules:
            return f"{name} is loaded, which does not survive a fork"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA is initialised"
    return None


def main() -> NoReturn:
    """Be the template process."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    Forker(sock).serve()


if __name__ == "__main__":
    main()
