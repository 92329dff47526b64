"""Tokens: a proof of who dials, where the TLS of a connection ends before it reaches the listener.

Here: signing and checking. Not here: what a token is bound to: 32 bytes that both sides derive
from nonces of this one connection (`transport/sessions/handshake.py`).

A token is signed by the key of the node's own certificate, and carries that certificate. All of
its parts are framed by their length in four bytes, so that no two tokens have the same bytes:

```
b"covey token 1"  name  issued  expires  binding  signature  certificate  [certificate ...]
```

What is signed is all but the signature, with the first certificate alone. Times are whole seconds
since 1970 in eight bytes. ECDSA signatures can be altered by anybody without becoming invalid:
they identify nothing, and none is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from .certificates import (
    CERTIFICATE_BYTES,
    UNREADABLE,
    Certified,
    certificates_of,
    der_of,
    read,
)
from .errors import (
    BadKeyFiles,
    BadToken,
    Expired,
    SecurityError,
    TokenExpired,
    TokenName,
    TokenSession,
    WrongAuthority,
    WrongKind,
)
from .tls import KeyFiles

#: Bytes of a token; it has to fit into a session's first words.
TOKEN_BYTES: Final = 40 << 10

#: Bytes of what a token is bound to.
BINDING_BYTES: Final = 32

#: Seconds that a token is good for at most.
LIFETIME_S: Final = 300

#: Seconds by which the signer's clock may be ahead of the checker's.
AHEAD_S: Final = 60

#: Certificates of a token at most.
CHAIN_LENGTH: Final = 4

_CONTEXT: Final = b"covey token 1"
_PARTS: Final = 6

#: By the name of a key's curve, the hash that is signed.
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
}
_PRIVATE: Final = (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)
_KEYS: Final = "P-256, P-384 or Ed25519"


@dataclass(frozen=True, slots=True)
class Token:
    """A token's parts, checked for nothing but their lengths."""

    name: str
    issued: int
    expires: int
    binding: bytes
    signature: bytes
    chain: tuple[bytes, ...]

    @property
    def signed(self) -> bytes:
        """What its signature covers."""
        times = (self.issued.to_bytes(8, "big"), self.expires.to_bytes(8, "big"))
        return _framed(_CONTEXT, self.name.encode(), *times, self.binding, self.chain[0])

    def encode(self) -> bytes:
        """Its bytes."""
        times = (self.issued.to_bytes(8, "big"), self.expires.to_bytes(8, "big"))
        parts = (self.name.encode(), *times, self.binding, self.signature, *self.chain)
        return _framed(_CONTEXT, *parts)

    @classmethod
    def decode(cls, data: bytes) -> Token:
        """A token of its bytes; raises `BadToken`."""
        context, *parts = _parts(data)
        if context != _CONTEXT or not _PARTS <= len(parts) < _PARTS + CHAIN_LENGTH:
            raise BadToken(f"it is no token of this version, in {len(parts) + 1} parts")
        name, issued, expires, binding, signature, *chain = parts
        if len(issued) != 8 or len(expires) != 8 or len(binding) != BINDING_BYTES:
            raise BadToken("it has a part of a wrong length")
        if max(map(len, chain)) > CERTIFICATE_BYTES:
            raise BadToken(f"it has a certificate of more than {CERTIFICATE_BYTES} bytes")
        times = (int.from_bytes(issued, "big"), int.from_bytes(expires, "big"))
        return cls(name.decode(errors="replace"), *times, binding, signature, tuple(chain))


class Signer:
    """Signs tokens with a node's key.

    Args:
        files: The key and its certificates.

    Raises:
        BadKeyFiles: They do not fit each other, or tokens are not signed by such keys.
    """

    def __init__(self, files: KeyFiles) -> None:
        pem = files.pem()
        chain = certificates_of(pem.chain, files.chain)[:CHAIN_LENGTH]
        try:
            key = load_pem_private_key(pem.key, None)
        except (ValueError, TypeError) as error:
            raise BadKeyFiles(f"{files.key}: expected a key without a password: {error}") from None
        if not isinstance(key, _PRIVATE) or not _is_usable(key):
            raise BadKeyFiles(f"{files.key}: tokens are signed by {_KEYS} keys")
        if key.public_key() != chain[0].public_key():
            raise BadKeyFiles(f"{files.key} is not the key of {files.chain}")
        self._key = key
        self._chain = tuple(der_of(chain))
        try:
            self._name = read(chain[0]).identity.name
        except SecurityError as error:
            raise BadKeyFiles(f"{files.chain}: {error.why}") from None

    def sign(self, binding: bytes, now: float, lifetime_s: int = LIFETIME_S) -> bytes:
        """A token over `binding`, good from `now`, in seconds since 1970."""
        issued = int(now)
        bare = Token(self._name, issued, issued + lifetime_s, binding, b"", self._chain)
        signed = replace(bare, signature=self._signature(bare.signed)).encode()
        if len(signed) > TOKEN_BYTES:
            raise BadKeyFiles(f"a token with these certificates has {len(signed)} bytes")
        return signed

    def _signature(self, data: bytes) -> bytes:
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        return self._key.sign(data, ec.ECDSA(_HASHES[self._key.curve.name]))


def verify(
    data: bytes,
    binding: bytes,
    name: str,
    roots: Sequence[x509.Certificate],
    now: float,
) -> Certified:
    """Who signed a token; whether they have been revoked is not looked at (`revocation.py`).

    Args:
        data: The token.
        binding: What it must be bound to.
        name: Whom it must be of.
        roots: The authorities that are trusted.
        now: The time, in seconds since 1970.

    Raises:
        BadToken: It is none, or not signed by the key of its certificate; `TokenSession`,
            `TokenName` and `TokenExpired` say that it is one, but not for this.
        WrongAuthority: No trusted authority issued its certificate.
        Expired: Its certificate is not valid now.
        WrongKind: Its certificate is not for dialing.
        BadIdentity: Its certificate names nobody.
    """
    if len(data) > TOKEN_BYTES:
        raise BadToken(f"a token of {len(data)} bytes is too large")
    token = Token.decode(data)
    if token.binding != binding:
        raise TokenSession("the token was made for another connection")
    leaf, *between = _parsed(token.chain)
    _check_signature(token, leaf)
    _check_time(token, now)
    try:
        found = _check_certificate(leaf, between, roots, datetime.fromtimestamp(now, UTC))
    except UNREADABLE as error:
        raise BadToken(f"it carries what is no certificate: {error}") from None
    if not token.name == found.identity.name == name:
        text = f"{name} shows a token of {token.name}, signed by {found.identity.name}"
        raise TokenName(text)
    return found


def _parsed(chain: Sequence[bytes]) -> list[x509.Certificate]:
    try:
        return [x509.load_der_x509_certificate(der) for der in chain]
    except UNREADABLE as error:
        raise BadToken(f"it carries what is no certificate: {error}") from None


def _check_signature(token: Token, leaf: x509.Certificate) -> None:
    try:
        key = leaf.public_key()
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(token.signature, token.signed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and _is_usable(key):
            key.verify(token.signature, token.signed, ec.ECDSA(_HASHES[key.curve.name]))
        else:
            raise BadToken(f"tokens are signed by {_KEYS} keys")
    except InvalidSignature:
        raise BadToken("the signature is not of the certificate's key") from None
    except UNREADABLE as error:
        raise BadToken(f"its key cannot be used: {error}") from None


def _check_time(token: Token, now: float) -> None:
    if not 0 < token.expires - token.issued <= LIFETIME_S:
        raise TokenExpired(f"a token is good for {LIFETIME_S} s at most")
    if token.expires <= now:
        raise TokenExpired(f"the token's time was over {now - token.expires:.0f} s ago")
    if token.issued > now + AHEAD_S:
        raise TokenExpired(f"the token begins in {token.issued - now:.0f} s: compare the clocks")


def _check_certificate(
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> Certified:
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        ends = leaf.not_valid_after_utc
        raise Expired(f"the certificate is valid from {leaf.not_valid_before_utc} to {ends}")
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([])
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise WrongKind("the certificate is not for dialing")
    policy = PolicyBuilder().store(Store(list(roots))).time(now).max_chain_depth(CHAIN_LENGTH - 1)
    try:
        policy.build_client_verifier().verify(leaf, list(between))
    except VerificationError as error:
        raise WrongAuthority(f"no trusted authority issued the certificate: {error}") from None
    return read(leaf)


def _is_usable(key: object) -> bool:
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return key.curve.name in _HASHES
    return isinstance(key, ed25519.Ed25519PrivateKey)


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _parts(data: bytes) -> list[bytes]:
    """The framed parts of some bytes; raises `BadToken` if that does not come out even."""
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data) or at + 4 > len(data):
            raise BadToken("it ends in the middle")
        parts.append(data[at + 4 : end])
        at = end
    return parts or [b""]
