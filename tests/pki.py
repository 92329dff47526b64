"""A federation's authority and certificates, made in a moment and good for an hour.

Here: what tests of identities need, bad certificates too. Not here: what is asserted of them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from covey.security.tls import KeyFiles

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

FEDERATION: Final = "hospitals.example"
HOUR: Final = timedelta(hours=1)

CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


class Authority:
    """An authority, and the folder in which its files stand.

    Args:
        folder: For all files that are written.
        federation: The federation that its certificates are for.
        parent: The authority that issued this one; None for a root.
    """

    def __init__(
        self, folder: Path, federation: str = FEDERATION, parent: Authority | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.federation = federation
        self.parent = parent
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, token_hex(16))])
        self.certificate = self._own()
        self.revoked: list[int] = []
        self.roots = folder / "roots.pem"
        root = self if parent is None else parent
        self.roots.write_bytes(root.certificate.public_bytes(Encoding.PEM))

    def _own(self) -> x509.Certificate:
        now, issuer = datetime.now(UTC), self.parent or self
        public, above = self.key.public_key(), issuer.key.public_key()
        builder = (
            x509.CertificateBuilder(issuer.name, self.name, public, x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        if self.parent is not None:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(above)
            builder = builder.add_extension(identifier, critical=False)
        return builder.sign(issuer.key, hashes.SHA256())

    def issue(
        self,
        kind: str,
        name: str,
        *,
        uris: Sequence[str] | None = None,
        usages: Sequence[x509.ObjectIdentifier] | None = None,
        key: PrivateKey | None = None,
        begins: timedelta = -HOUR,
        ends: timedelta = HOUR,
        ca: bool = False,
        common_name: str | None = None,
    ) -> KeyFiles:
        """A key, its certificate and the root, in files.

        Args:
            kind: What the certificate is for; servers and relays get both purposes.
            name: Whom it is for.
            uris: Its URIs, instead of the one that says this.
            usages: Its purposes, instead of those of its kind.
            key: Its key; None for a new one of P-256.
            begins: When it begins to be valid, from now.
            ends: When it ends to be, from now.
            ca: Whether it says that it is an authority's.
            common_name: Its common name; None for `name`.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        listens = kind in ("server", "relay")
        if usages is None:
            usages = {"server": [SERVER], "relay": [SERVER, CLIENT]}.get(kind, [CLIENT])
        if uris is None:
            uris = [f"spiffe://{self.federation}/{kind}/{name}"]
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        if listens:
            names.append(x509.DNSName("localhost"))
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        now, public, above = datetime.now(UTC), key.public_key(), self.key.public_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or name)])
        builder = (
            x509.CertificateBuilder(self.name, subject, public, x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(above), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return self._written(builder.sign(self.key, hashes.SHA256()), key, name)

    def _written(self, leaf: x509.Certificate, key: PrivateKey, name: str) -> KeyFiles:
        chain = self.folder / f"{name}-{leaf.serial_number:x}.pem"
        between = [] if self.parent is None else [self.certificate]
        chain.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in [leaf, *between]))
        secret = chain.with_suffix(".key")
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return KeyFiles(chain, secret, self.roots)

    def revoke(self, files: KeyFiles, *, due: timedelta = HOUR) -> Path:
        """The list of revoked certificates, this one among them.

        Args:
            files: The certificate's.
            due: When the next list is due, from now.
        """
        self.revoked.append(leaf_of(files).serial_number)
        return self.revocations(due=due)

    def revocations(self, *, due: timedelta = HOUR) -> Path:
        """The list of revoked certificates."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now - 2 * HOUR)
            .next_update(now + due)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .add_extension(x509.CRLNumber(len(self.revoked)), critical=False)
        )
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder(serial, now - HOUR).build()
            builder = builder.add_revoked_certificate(entry)
        path = self.folder / "revoked.pem"
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return path


def leaf_of(files: KeyFiles) -> x509.Certificate:
    """The certificate of a node's files."""
    return x509.load_pem_x509_certificates(files.chain.read_bytes())[0]


def der_of(files: KeyFiles) -> bytes:
    """The same, in DER."""
    return leaf_of(files).public_bytes(Encoding.DER)
