"""TLS contexts: what each side demands of the other before a byte of covey is spoken.

Here: files with keys, and the contexts made of them. Not here: whom a certificate names
(`certificates.py`), connections (`covey.transport`).

Only TLS 1.3 is spoken: it has neither renegotiation nor compression, and shows certificates to
nobody who listens on the way. No session is resumed: that would skip the look at the
certificate, which may have expired or been revoked.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import BadKeyFiles

#: Makes a dialer's context for a list of ALPN names.
ContextMaker = Callable[[Sequence[str]], ssl.SSLContext]

#: Bytes of a file that is read whole; a bundle of all public authorities has 250 KB.
_FILE_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Pem:
    """The same as `KeyFiles`, read, for libraries with a TLS of their own.

    Attributes:
        chain: The node's certificate, and those between it and a root.
        key: The private key.
        roots: The authorities that are trusted.
    """

    chain: bytes
    key: bytes
    roots: bytes


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where a node's key and certificates are, all in PEM.

    Attributes:
        chain: The node's certificate, followed by those between it and a root.
        key: Its private key, without a password.
        roots: The federation's authorities: they alone are trusted to name its nodes.
        revoked: The authorities' list of revoked certificates; None for none. Where there is
            one, peers are refused once a newer one is due.
    """

    chain: Path
    key: Path
    roots: Path
    revoked: Path | None = None

    def pem(self) -> Pem:
        """Read the files; raises `BadKeyFiles`."""
        return Pem(contents(self.chain), contents(self.key), contents(self.roots))


def contents(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        BadKeyFiles: It cannot be read, or is larger than any file of this kind.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise BadKeyFiles(f"{path}: {error.strerror}") from None
    if len(data) > _FILE_BYTES:
        raise BadKeyFiles(f"{path} has more than {_FILE_BYTES} bytes")
    return data


def server_context(files: KeyFiles, *, required: bool = False) -> ssl.SSLContext:
    """The context of a listener.

    Args:
        files: Its key, and whom it trusts.
        required: Whether TLS itself refuses whoever shows no certificate. Else they come in, and
            are told what they lack.

    Raises:
        BadKeyFiles: The files do not fit each other, or cannot be read.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    _trust(context, files)
    _show(context, files)
    return context


def client_context_maker(files: KeyFiles, *, check_hostname: bool = True) -> ContextMaker:
    """Makes the contexts of a dialer that reaches another node of its federation by TLS.

    Args:
        files: Its key, and whom it trusts.
        check_hostname: Whether the listener's certificate must be for the host that is dialed.
            Without, any server and relay of the federation can take the place of another.

    Raises:
        BadKeyFiles: The files do not fit each other, or cannot be read.
    """

    def make() -> ssl.SSLContext:
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = check_hostname
        _trust(context, files)
        _show(context, files)
        return context

    return _Maker(make)


def proxy_context_maker(bundle: Path | None = None) -> ContextMaker:
    """Makes the contexts of a dialer that meets another's TLS: a load balancer's, say.

    Nothing is shown there: who dials is told by a token.

    Args:
        bundle: The authorities that are trusted, in PEM; None for the system's, or those of the
            file that `SSL_CERT_FILE` names.

    Raises:
        BadKeyFiles: The bundle cannot be read.
    """

    def make() -> ssl.SSLContext:
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        if bundle is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            _load(context, bundle)
        return context

    return _Maker(make)


class _Maker:
    """Makes one context for each list of ALPN names: each takes milliseconds.

    Args:
        make: Makes one without names.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext]) -> None:
        self._make = make
        self._made: dict[tuple[str, ...], ssl.SSLContext] = {(): make()}

    def __call__(self, protocols: Sequence[str]) -> ssl.SSLContext:
        """The context for these names; raises `BadKeyFiles` if the files have gone."""
        names = tuple(protocols)
        context = self._made.get(names)
        if context is None:
            context = self._made[names] = self._make()
            context.set_alpn_protocols(list(names))
        return context


def _context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    return context


def _trust(context: ssl.SSLContext, files: KeyFiles) -> None:
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    _load(context, files.roots)
    if files.revoked is not None:
        _load(context, files.revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _load(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise BadKeyFiles(f"{path}: expected certificates in PEM: {error}") from None


def _show(context: ssl.SSLContext, files: KeyFiles) -> None:
    def no_password() -> str:  # else the terminal would be asked, and everything would wait
        raise BadKeyFiles(f"{files.key} is encrypted, and nobody is here to give the password")

    try:
        context.load_cert_chain(files.chain, files.key, no_password)
    except OSError as error:
        text = f"{files.chain} and {files.key}: no certificate in PEM with its key: {error}"
        raise BadKeyFiles(text) from None
