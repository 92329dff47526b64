"""Identity without TLS: for nodes of one host, where whoever can connect is believed.

Not here: real identities (`identity.py`).
"""

from __future__ import annotations

import ipaddress
from typing import Final

from covey.transport.doors.pipe import Presented
from covey.transport.endpoint import DialerTLS
from covey.transport.errors import Refused


class Loopback:
    """Believes every peer on this host, and no other; see `Doorkeeper` and `Credentials`."""

    evidence: tuple[str, ...] = ()
    listener_tls: None = None
    dialer_tls: DialerTLS | None = None
    certificate: bytes | None = None

    @property
    def doorkeeper(self) -> Loopback:
        """See `Identity`."""
        return self

    @property
    def credentials(self) -> Loopback:
        """See `Identity`."""
        return self

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        """The name that a peer on this host claims."""
        require_local(presented)
        return claimed

    def check_token(self, token: bytes, binding: bytes, claimed: str) -> str:
        """Nobody is asked for one."""
        raise Refused(claimed, "identity", "no token was asked for")

    def check_evidence(self, kind: str, evidence: bytes, binding: bytes, name: str) -> None:
        """Nobody is asked for any."""
        raise Refused(name, "evidence", "no evidence was asked for")

    def check_listener(self, presented: Presented, node: str) -> None:
        """The listener is on this host, too."""
        require_local(presented)

    def token(self, binding: bytes, node: str) -> bytes:
        """There is nothing to sign with."""
        raise Refused(node, "identity", "the listener wants a token: give an identity")

    def attest(self, kinds: tuple[str, ...], binding: bytes) -> tuple[str, bytes]:
        """There is no evidence."""
        raise Refused("this node", "evidence", f"none of {', '.join(kinds)} can be given")

    def carries(self, peer: str) -> bool:
        """Whoever is on this host is believed."""
        return True


def require_local(presented: Presented) -> None:
    """Raise `Refused` unless the other end of a connection is on this host."""
    host = presented.address.rpartition(":")[0]
    try:
        address = ipaddress.ip_address(host or "::1")  # a Unix socket has no address
    except ValueError:
        address = ipaddress.ip_address("0.0.0.0")
    mapped = getattr(address, "ipv4_mapped", None)
    if not (mapped or address).is_loopback:
        text = "without TLS only nodes of the same host are believed: give an identity"
        raise Refused(presented.address, "plaintext", text)
    if presented.forwarded:  # the proxy is on this host, and makes everybody behind it look so
        text = "who comes through a proxy is not believed to be on this host: give an identity"
        raise Refused(presented.address, "forwarded", text)


#: The identity of nodes that are given none.
LOOPBACK: Final = Loopback()
