"""Accepting: connections on one socket, from the kernel's queue until TLS stands.

Here: taking them, TLS on each of them in bounded time, and by which word it is counted that there
is none. Not here: what is spoken over a connection (`listener.py`).

`create_server` would do the same, but say neither to whom TLS failed nor why, and hold strangers
in the middle of it that nobody counts.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from .admission import Admission, Refusals

#: Seconds for TLS; asyncio would wait for a minute.
TLS_S: Final = 5.0

#: Seconds for a peer to confirm that TLS ends.
END_OF_TLS_S: Final = 1.0

#: Connections that are accepted before others have their turn.
AT_ONCE: Final = 64

#: Seconds until the next try after the process ran out of descriptors or memory.
EXHAUSTED_S: Final = 0.5

#: What OpenSSL says of a peer's certificate (X509_V_ERR_*), in a word.
_CERTIFICATE: Final = {
    7: "wrong-authority",  # CERT_SIGNATURE_FAILURE
    9: "expired",  # CERT_NOT_YET_VALID
    10: "expired",  # CERT_HAS_EXPIRED
    3: "no-revocations",  # UNABLE_TO_GET_CRL
    12: "no-revocations",  # CRL_HAS_EXPIRED
    18: "wrong-authority",  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: "wrong-authority",  # SELF_SIGNED_CERT_IN_CHAIN
    20: "wrong-authority",  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: "wrong-authority",  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    23: "revoked",  # CERT_REVOKED
    26: "wrong-kind",  # INVALID_PURPOSE
}

#: What OpenSSL says of the handshake, in a word.
_HANDSHAKE: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no-certificate",
    "UNSUPPORTED_PROTOCOL": "tls-version",
    "VERSION_TOO_LOW": "tls-version",
    "HTTP_REQUEST": "not-tls",
    "HTTPS_PROXY_REQUEST": "not-tls",
    "WRONG_VERSION_NUMBER": "not-tls",
}


def reason_of(error: OSError) -> str:
    """Why TLS did not come about, in a word by which it is counted.

    `tls-alert` is the peer's refusal of this side, `tls-late` one that took too long,
    `tls-left` one that hung up, `certificate` and `tls` whatever has no word of its own.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATE.get(getattr(error, "verify_code", 0), "certificate")
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or ""
        return _HANDSHAKE.get(reason) or ("tls-alert" if "_ALERT_" in reason else "tls")
    return "tls-late" if isinstance(error, ConnectionAbortedError) else "tls-left"


class Newcomer(asyncio.Protocol):
    """A new connection, whose peer counts as a stranger until it leaves.

    Args:
        admission: Counts strangers.
        host: Where it comes from; it has been let in.
    """

    def __init__(self, admission: Admission, host: str) -> None:
        self._admission = admission
        self._host: str | None = host
        #: The connection, as long as no transport owns it.
        self.sock: socket.socket | None = None

    def leave(self) -> None:
        """It is no stranger at the door any more; idempotent."""
        if self._host is not None:
            self._admission.leave(self._host)
            self._host = None


@dataclass(frozen=True, slots=True)
class Accepting:
    """What is accepted where, and how.

    Attributes:
        sock: The listening socket, which does not block.
        tls: The TLS context, None for plaintext.
        admission: Counts strangers.
        refusals: Counts what was refused.
        newcomer: Makes the protocol of a connection from a host.
        own: Runs the work on one connection in a task, which may be cancelled.
    """

    sock: socket.socket
    tls: ssl.SSLContext | None
    admission: Admission
    refusals: Refusals
    newcomer: Callable[[str], Newcomer]
    own: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Acceptor:
    """Accepts connections from now on until it is closed; belongs to one loop."""

    def __init__(self, accepting: Accepting) -> None:
        self._accepting = accepting
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    @property
    def port(self) -> int:
        """The TCP port."""
        port: int = self._accepting.sock.getsockname()[1]
        return port

    def close(self) -> None:
        """Accept no more, and close the socket; idempotent."""
        if self._pause is not None:
            self._pause.cancel()
        if self._accepting.sock.fileno() >= 0:
            self._loop.remove_reader(self._accepting.sock.fileno())
            self._accepting.sock.close()

    def _resume(self) -> None:
        self._loop.add_reader(self._accepting.sock.fileno(), self._accept)

    def _accept(self) -> None:
        """Take what the kernel has; it says so again if that was not all."""
        sock = self._accepting.sock
        for _ in range(AT_ONCE):
            try:
                connected, name = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors, no memory: the kernel's queue waits
                self._accepting.refusals.add("exhausted", str(error))
                self._loop.remove_reader(sock.fileno())
                self._pause = self._loop.call_later(EXHAUSTED_S, self._resume)
                return
            connected.setblocking(False)
            _let_in(self._accepting, connected, name)


def _let_in(accepting: Accepting, connected: socket.socket, name: tuple[Any, ...]) -> None:
    host = str(name[0])
    refused = accepting.admission.enter(host)
    if refused is not None:
        connected.close()
        text = "too many that have not said who they are"
        accepting.refusals.add(refused, f"{host}:{name[1]}: {text}")
        return
    newcomer = accepting.newcomer(host)
    newcomer.sock = connected
    task = accepting.own(_bring_up(accepting, newcomer, f"{host}:{name[1]}"))
    task.add_done_callback(lambda done: _give_up(newcomer) if done.cancelled() else None)


async def _bring_up(accepting: Accepting, newcomer: Newcomer, address: str) -> None:
    """Hand a connection to its protocol once TLS stands."""
    tls, sock, newcomer.sock = accepting.tls, newcomer.sock, None
    assert sock is not None
    try:
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: newcomer,
            sock,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else TLS_S,
            ssl_shutdown_timeout=None if tls is None else END_OF_TLS_S,
        )
    except OSError as error:
        newcomer.leave()
        accepting.refusals.add(reason_of(error), f"{address}: {error}")


def _give_up(newcomer: Newcomer) -> None:
    """The work on a connection was cancelled, maybe before it began."""
    newcomer.leave()
    if newcomer.sock is not None:
        newcomer.sock.close()
