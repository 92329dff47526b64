"""Names in certificates: `spiffe://<federation>/<kind>/<name>`, and nothing else.

Here: reading that name from a certificate, and from files what certificates and lists of revoked
ones they hold. Not here: whether a certificate is to be believed (`tls.py`, `tokens.py`).

The name is the one URI among the certificate's subject alternative names. Common names are never
looked at: no authority's constraints bind them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from .errors import BadIdentity, BadKeyFiles

#: What a certificate can be for.
KINDS: Final = ("server", "site", "relay", "admin", "device", "job")

#: Bytes of a certificate; ours have about 700.
CERTIFICATE_BYTES: Final = 8 << 10

#: What is raised, late where a part is read late, by certificates of a form or for keys that are
#: not known; not all of it is a `ValueError`.
UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

_SCHEME: Final = "spiffe://"
_FEDERATION: Final = re.compile(r"[a-z0-9][a-z0-9._\-]{0,127}")
# The names of nodes: what may stand before the slash of an actor's address.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate is for.

    Attributes:
        federation: The federation, in small letters, such as `hospitals.example`.
        kind: One of `KINDS`.
        name: The node's name.
    """

    federation: str
    kind: str
    name: str

    def __post_init__(self) -> None:
        """Check each part; raises `BadIdentity`."""
        if not _FEDERATION.fullmatch(self.federation):
            raise BadIdentity(f"{self.federation!r} is no name of a federation")
        if self.kind not in KINDS:
            raise BadIdentity(f"{self.kind!r} is none of {', '.join(KINDS)}")
        if not _NAME.fullmatch(self.name):
            raise BadIdentity(f"{self.name!r} is no name of a node")

    def __str__(self) -> str:
        return f"{_SCHEME}{self.federation}/{self.kind}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """The identity that a URI spells.

        Raises:
            BadIdentity: It is not exactly of this form.
        """
        parts = uri.removeprefix(_SCHEME).split("/")
        if not uri.startswith(_SCHEME) or len(parts) != 3:
            raise BadIdentity(f"{uri[:400]!r} is not {_SCHEME}<federation>/<kind>/<name>")
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class Certified:
    """What a certificate says of its bearer.

    Attributes:
        identity: Who it is for.
        serial: Its number, by which it can be revoked.
    """

    identity: Identity
    serial: int


def certified(certificate: bytes) -> Certified:
    """Who a certificate is for; whether it is to be believed has been found out before.

    Args:
        certificate: The certificate in DER.

    Raises:
        BadIdentity: It has not exactly one name of this form, or is an authority's.
    """
    if len(certificate) > CERTIFICATE_BYTES:
        raise BadIdentity(f"a certificate of {len(certificate)} bytes is too large")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
    except UNREADABLE as error:
        raise BadIdentity(f"it is no certificate that can be read: {error}") from None
    return read(parsed)


def read(certificate: x509.Certificate) -> Certified:
    """As `certified`, of a certificate that has been parsed."""
    try:
        return _read(certificate)
    except UNREADABLE as error:
        raise BadIdentity(f"it is no certificate that can be read: {error}") from None


def _read(certificate: x509.Certificate) -> Certified:
    extensions = certificate.extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    if len(uris) != 1:
        raise BadIdentity(f"the certificate has {len(uris)} URIs as names, not one")
    try:
        is_authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if is_authority:
        raise BadIdentity("the certificate is an authority's, which speaks for nobody")
    return Certified(Identity.parse(uris[0]), certificate.serial_number)


def certificates_of(pem: bytes, where: object) -> list[x509.Certificate]:
    """The certificates of a PEM file, in its order.

    Args:
        pem: The file's bytes.
        where: Its name, for errors.

    Raises:
        BadKeyFiles: There is none, or one cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise BadKeyFiles(f"{where}: expected certificates in PEM: {error}") from None


def der_of(certificates: Sequence[x509.Certificate]) -> list[bytes]:
    """Certificates in DER."""
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]


def revoked_serials(
    pem: bytes, authorities: Sequence[x509.Certificate], where: object
) -> frozenset[int]:
    """The serial numbers of a list of revoked certificates, in PEM.

    Raises:
        BadKeyFiles: It is no such list, no authority has signed it, or a newer one is due:
            who is revoked cannot be known then.
    """
    try:
        revoked = x509.load_pem_x509_crl(pem)
    except ValueError as error:
        raise BadKeyFiles(f"{where}: expected a list of revoked certificates: {error}") from None
    if not any(_signed(revoked, authority) for authority in authorities):
        raise BadKeyFiles(f"{where}: no trusted authority has signed this list")
    due = revoked.next_update_utc
    if due is not None and due <= datetime.now(UTC):
        raise BadKeyFiles(f"{where}: a newer list of revoked certificates is due since {due}")
    return frozenset(entry.serial_number for entry in revoked)


def _signed(revoked: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        return False
    return revoked.issuer == authority.subject and revoked.is_signature_valid(key)
