"""Identity: who a node is by its certificate, and whom it believes, for its connections.

Here: what `covey.security` finds out, as the verdicts that `covey.transport` asks for. Not here:
cryptography, connections, and nodes without certificates (`loopback.py`).

docs/connections.md draws both ways in which a node proves who it is: by the certificate that TLS
shows, and by a token where TLS ends at a proxy.
"""

from __future__ import annotations

import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from covey.security.certificates import (
    KINDS,
    Certified,
    Identity,
    certificates_of,
    certified,
    der_of,
    revoked_serials,
)
from covey.security.errors import (
    BadKeyFiles,
    SecurityError,
    TokenReplayed,
    TokenSession,
    WrongFederation,
    WrongKind,
)
from covey.security.revocation import Denied
from covey.security.tls import (
    ContextMaker,
    KeyFiles,
    Pem,
    client_context_maker,
    contents,
    proxy_context_maker,
    server_context,
)
from covey.security.tokens import LIFETIME_S, Signer, Token, verify
from covey.transport import Refused
from covey.transport.doors.pipe import Presented

from .loopback import require_local

#: Kinds of nodes that listen, and those that may dial one.
LISTENING: Final = ("server", "relay")
DIALING: Final = tuple(kind for kind in KINDS if kind != "server")

#: Accepted tokens that are remembered, so that a second use is called a replay.
_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Proxy:
    """What a node that dials knows of a proxy at which its TLS ends.

    Attributes:
        bundle: The authorities that the proxy's certificate may be of, in PEM; None for the
            system's, or those of the file that `SSL_CERT_FILE` names.
    """

    bundle: Path | None = None


class NodeIdentity:
    """A node's certificate and key, and whom it believes where it dials and listens.

    Args:
        files: Its key, its certificate and the federation's authorities.
        tokens: Whether, where it listens, nodes may prove by a token who they are; for listeners
            behind a proxy at which TLS ends.
        plaintext: Whether it listens without TLS, since only such a proxy reaches it.
        proxy: Where it dials: TLS ends at this proxy. Only then does it sign tokens.
        check_hostname: Where it dials: whether the listener's certificate must be for the host
            that is dialed, as well as for a server or relay of the federation.
        kinds: Kinds of nodes that may dial it.
        clock: Seconds since 1970.

    Raises:
        BadKeyFiles: The files do not fit each other, or cannot be read.
        ValueError: It listens without TLS, and takes no tokens: nobody could come in.
    """

    def __init__(
        self,
        files: KeyFiles,
        *,
        tokens: bool = False,
        plaintext: bool = False,
        proxy: Proxy | None = None,
        check_hostname: bool = True,
        kinds: Collection[str] = DIALING,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if plaintext and not tokens:
            raise ValueError("without TLS a listener knows nobody but by tokens: allow them")
        self._certificate = der_of(certificates_of(contents(files.chain), files.chain))[0]
        self._files = files
        self.own = _own(self._certificate, files)
        self.doorkeeper = TLSDoorkeeper(self.own, files, tokens=tokens, kinds=kinds, clock=clock)
        self.credentials = NodeCredentials(self.own, files, proxied=proxy is not None, clock=clock)
        self._plaintext = plaintext
        self._listens = self.own.kind in LISTENING
        self._dialer_tls = (
            client_context_maker(files, check_hostname=check_hostname)
            if proxy is None
            else proxy_context_maker(proxy.bundle)
        )

    @property
    def certificate(self) -> bytes | None:
        """The node's own certificate in DER; None where TLS ends at a proxy, which sees none."""
        return None if self.credentials.proxied else self._certificate

    @property
    def listener_tls(self) -> ssl.SSLContext | None:
        """A new TLS context for a listener; None for plaintext.

        Raises:
            BadKeyFiles: The certificate is not for listening, or the files have gone.
        """
        if not self._listens:
            raise BadKeyFiles(f"{self._files.chain} is of {self.own}, which does not listen")
        return None if self._plaintext else server_context(self._files)

    @property
    def dialer_tls(self) -> ContextMaker:
        """Makes the TLS contexts of a dialer."""
        return self._dialer_tls

    def carries(self, peer: str) -> bool:
        """Whether a peer speaks for nodes behind it: a relay does, and whoever this node dials."""
        return self.doorkeeper.kind_of(peer) == "relay" or peer == self.credentials.listener

    def pem(self) -> Pem:
        """The files' contents, for libraries with a TLS of their own; raises `BadKeyFiles`."""
        return self._files.pem()


class TLSDoorkeeper:
    """Lets in whoever shows a certificate of the federation; see `Doorkeeper`.

    Args:
        own: Who listens.
        files: The authorities that are trusted, and their list of revoked certificates.
        tokens: Whether who shows no certificate may prove by a token who they are.
        kinds: Kinds of nodes that may come in.
        clock: Seconds since 1970.
    """

    evidence: tuple[str, ...] = ()

    def __init__(
        self,
        own: Identity,
        files: KeyFiles,
        *,
        tokens: bool = False,
        kinds: Collection[str] = DIALING,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self._roots = certificates_of(contents(files.roots), files.roots)
        revoked = files.revoked
        serials = (
            frozenset[int]()
            if revoked is None
            else revoked_serials(contents(revoked), self._roots, revoked)
        )
        self._denied = Denied(serials)
        self._tokens = tokens
        self._kinds = frozenset(kinds)
        self._clock = clock
        self._used: OrderedDict[bytes, float] = OrderedDict()
        self._came_as: dict[str, str] = {}

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        """Who the certificate is for that TLS showed; None if it showed none and a token may."""
        if presented.certificate is None:
            if self._tokens:
                return None
            code = "no-certificate" if presented.encrypted else "plaintext"
            raise Refused(self._own.name, code, f"{claimed} shows no certificate")
        try:
            return self._admit(certified(presented.certificate))
        except SecurityError as error:
            raise Refused(self._own.name, error.code, error.why) from None

    def check_token(self, token: bytes, binding: bytes, claimed: str) -> str:
        """Who signed a token over `binding`."""
        now = self._clock()
        try:
            name = self._admit(verify(token, binding, claimed, self._roots, now))
        except TokenSession as error:
            found = self._called_by_its_name(error, token)
            raise Refused(self._own.name, found.code, found.why) from None
        except SecurityError as error:
            raise Refused(self._own.name, error.code, error.why) from None
        self._remember(binding, now)
        return name

    def check_evidence(self, kind: str, evidence: bytes, binding: bytes, name: str) -> None:
        """Nobody is asked for any."""
        raise Refused(self._own.name, "evidence", "no evidence was asked for")

    def kind_of(self, name: str) -> str | None:
        """As what somebody of this name came in last; None if nobody has."""
        return self._came_as.get(name)

    def revoke(self, name: str, why: str) -> frozenset[str]:
        """Let nobody of this name in any more, whatever they show.

        Returns:
            The names whose sessions are to be ended (`Listener.revoke`).
        """
        return self._denied.deny_name(name, why)

    def revoke_serial(self, serial: int, why: str) -> frozenset[str]:
        """Let nobody in by this certificate any more.

        Returns:
            The names whose sessions are to be ended (`Listener.revoke`).
        """
        return self._denied.deny_serial(serial, why)

    def allow(self, name: str) -> None:
        """Take back that a name was revoked."""
        self._denied.allow_name(name)

    def _admit(self, found: Certified) -> str:
        who = found.identity
        if who.federation != self._own.federation:
            raise WrongFederation(f"{who} is not of {self._own.federation}")
        if who.kind not in self._kinds or who.name == self._own.name:
            raise WrongKind(f"{who} may not dial {self._own}")
        self._denied.check(found)
        self._came_as[who.name] = who.kind
        return who.name

    def _remember(self, binding: bytes, now: float) -> None:
        used = self._used
        used[binding] = now + LIFETIME_S
        while len(used) > _REMEMBERED or next(iter(used.values())) < now:
            used.popitem(last=False)

    def _called_by_its_name(self, error: TokenSession, token: bytes) -> TokenSession:
        """A token of another connection is refused anyway; a replay is worth its own counter."""
        if Token.decode(token).binding in self._used:
            return TokenReplayed("the token has been used before, on another connection")
        return error


class NodeCredentials:
    """What a node shows where it dials, and whom it believes there; see `Credentials`.

    Args:
        own: Who dials.
        files: Its key and certificate.
        proxied: Whether TLS ends at a proxy.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        own: Identity,
        files: KeyFiles,
        *,
        proxied: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self.proxied = proxied
        #: The node that was reached last, None before the first.
        self.listener: str | None = None
        self._signer = Signer(files) if proxied else None
        self._clock = clock

    def check_listener(self, presented: Presented, node: str) -> None:
        """Whether the listener's certificate is of a server or relay that is called `node`.

        Where TLS ends at a proxy, its certificate was for the host that was dialed; who stands
        behind it is the proxy's word.
        """
        if self.proxied:
            if not presented.encrypted:
                require_local(presented)
            self.listener = node
            return
        try:
            if presented.certificate is None:
                raise WrongKind(f"{node} shows no certificate")
            who = certified(presented.certificate).identity
            if who.federation != self._own.federation:
                raise WrongFederation(f"{who} is not of {self._own.federation}")
            if who.kind not in LISTENING or who.name != node:
                raise WrongKind(f"{who} may not listen as {node}")
        except SecurityError as error:
            raise Refused(presented.address, error.code, error.why) from None
        self.listener = node

    def token(self, binding: bytes, node: str) -> bytes:
        """A token over `binding`.

        It is refused where TLS reaches the listener: whoever asks for one there has seen the
        certificate, and could only use the token elsewhere.
        """
        if self._signer is None:
            text = "the listener has seen no certificate: does TLS end at a proxy?"
            raise Refused(node, "identity", text)
        return self._signer.sign(binding, self._clock())

    def attest(self, kinds: tuple[str, ...], binding: bytes) -> tuple[str, bytes]:
        """There is no evidence."""
        raise Refused(self._own.name, "evidence", f"none of {', '.join(kinds)} can be given")


def _own(certificate: bytes, files: KeyFiles) -> Identity:
    try:
        return certified(certificate).identity
    except SecurityError as error:
        raise BadKeyFiles(f"{files.chain}: {error.why}") from None
