"""Tokens: what they prove, and to whom alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from hypothesis import given
from hypothesis import strategies as st

from covey.security.certificates import certified, read
from covey.security.errors import (
    BadIdentity,
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
from covey.security.tokens import (
    AHEAD_S,
    CHAIN_LENGTH,
    LIFETIME_S,
    TOKEN_BYTES,
    Signer,
    Token,
    verify,
)
from tests.pki import HOUR, SERVER, Authority, PrivateKey, der_of, leaf_of

BINDING = bytes(range(32))
NOW = time.time()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def token(authority: Authority) -> bytes:
    return Signer(authority.issue("site", "site-1")).sign(BINDING, NOW)


def check(data: bytes, authority: Authority, *, name: str = "site-1", now: float = NOW) -> str:
    return verify(data, BINDING, name, [authority.certificate], now).identity.name


KEYS: list[Callable[[], PrivateKey]] = [
    lambda: ec.generate_private_key(ec.SECP256R1()),
    lambda: ec.generate_private_key(ec.SECP384R1()),
    ed25519.Ed25519PrivateKey.generate,
]


@pytest.mark.parametrize("key", KEYS, ids=["P-256", "P-384", "Ed25519"])
def test_a_token_proves_who_signed_it(authority: Authority, key: Callable[[], PrivateKey]) -> None:
    files = authority.issue("site", "site-1", key=key())
    assert check(Signer(files).sign(BINDING, NOW), authority) == "site-1"


def test_a_certificate_may_come_from_an_authority_below_the_root(
    authority: Authority, tmp_path: Path
) -> None:
    files = Authority(tmp_path, parent=authority).issue("site", "site-1")
    assert check(Signer(files).sign(BINDING, NOW), authority) == "site-1"


def test_a_token_is_good_for_its_connection_alone(authority: Authority, token: bytes) -> None:
    with pytest.raises(TokenSession):
        verify(token, bytes(32), "site-1", [authority.certificate], NOW)


def test_a_token_is_good_for_its_own_name_alone(authority: Authority, token: bytes) -> None:
    with pytest.raises(TokenName):
        check(token, authority, name="site-2")


def test_a_token_ends(authority: Authority, token: bytes) -> None:
    assert check(token, authority, now=NOW + LIFETIME_S - 2)
    with pytest.raises(TokenExpired, match="over"):
        check(token, authority, now=NOW + LIFETIME_S)
    with pytest.raises(TokenExpired, match="clocks"):
        check(token, authority, now=NOW - AHEAD_S - 2)


@pytest.mark.parametrize("lifetime", [LIFETIME_S + 1, 0])
def test_a_token_cannot_be_made_for_longer_than_five_minutes(
    authority: Authority, lifetime: int
) -> None:
    signer = Signer(authority.issue("site", "site-1"))
    with pytest.raises(TokenExpired, match="at most"):
        check(signer.sign(BINDING, NOW, lifetime), authority)


def test_the_certificate_of_a_token_is_looked_at_like_any_other(
    authority: Authority, tmp_path: Path
) -> None:
    def error_of(files: object) -> type[SecurityError]:
        with pytest.raises(SecurityError) as caught:
            check(Signer(files).sign(BINDING, NOW), authority)  # type: ignore[arg-type]
        return type(caught.value)

    other = Authority(tmp_path)
    assert error_of(other.issue("site", "site-1")) is WrongAuthority
    assert error_of(authority.issue("site", "site-1", ends=-HOUR / 2)) is Expired
    assert error_of(authority.issue("site", "site-1", begins=HOUR / 2)) is Expired
    assert error_of(authority.issue("server", "site-1", usages=[SERVER])) is WrongKind
    assert error_of(authority.issue("site", "site-1", usages=[])) is WrongKind


def test_a_certificate_that_names_nobody_cannot_sign(authority: Authority) -> None:
    with pytest.raises(BadKeyFiles):
        Signer(authority.issue("site", "site-1", uris=[]))


def test_nobody_can_put_their_certificate_under_anothers_token(
    authority: Authority, token: bytes
) -> None:
    own = authority.issue("site", "site-2")
    swapped = replace(Token.decode(token), chain=(der_of(own),))
    with pytest.raises(BadToken, match="signature"):
        check(swapped.encode(), authority)
    key = ec.generate_private_key(ec.SECP256R1())
    first = authority.issue("site", "site-1", key=key)
    second = authority.issue("site", "site-1", key=key)
    swapped = replace(
        Token.decode(Signer(first).sign(BINDING, NOW)),
        chain=(der_of(second),),
    )
    with pytest.raises(BadToken, match="signature"):
        check(swapped.encode(), authority)


def test_a_name_that_the_certificate_does_not_bear_is_refused(authority: Authority) -> None:
    signer = Signer(authority.issue("site", "site-1"))
    signer._name = "site-2"
    with pytest.raises(TokenName):
        check(signer.sign(BINDING, NOW), authority, name="site-2")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "site-2"},
        {"issued": int(NOW) + 1},
        {"expires": int(NOW) + LIFETIME_S - 1},
        {"signature": b""},
        {"signature": bytes(64)},
    ],
)
def test_every_part_is_signed(
    authority: Authority, token: bytes, change: dict[str, object]
) -> None:
    changed = replace(Token.decode(token), **change)  # type: ignore[arg-type]
    with pytest.raises(BadToken, match="signature"):
        check(changed.encode(), authority)


def test_a_signature_identifies_nothing(authority: Authority, token: bytes) -> None:
    """Anybody can make a second valid signature of one: both prove the same, once."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    found = Token.decode(token)
    r, s = decode_dss_signature(found.signature)
    altered = replace(found, signature=encode_dss_signature(r, order - s)).encode()
    assert altered != token
    assert check(altered, authority) == "site-1"
    with pytest.raises(TokenSession):
        verify(altered, bytes(32), "site-1", [authority.certificate], NOW)


def test_a_token_has_bounds(authority: Authority, token: bytes) -> None:
    with pytest.raises(BadToken, match="too large"):
        check(bytes(TOKEN_BYTES + 1), authority)
    found = Token.decode(token)
    many = replace(found, chain=found.chain * (CHAIN_LENGTH + 1))
    with pytest.raises(BadToken, match="parts"):
        check(many.encode(), authority)
    large = replace(found, chain=(bytes(9 << 10),))
    with pytest.raises(BadToken, match="bytes"):
        check(large.encode(), authority)
    with pytest.raises(BadToken, match="no certificate"):
        check(replace(found, chain=(b"nothing",)).encode(), authority)


@given(cut=st.integers(0, 700), junk=st.binary(max_size=40))
def test_whatever_else_comes_is_no_token(
    authority: Authority, token: bytes, cut: int, junk: bytes
) -> None:
    data = token[:cut] + junk
    if data == token:
        return
    with pytest.raises(SecurityError):
        check(data, authority)


def test_a_certificate_without_a_name_is_refused_in_a_token(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = Signer(authority.issue("site", "site-1", key=key))
    signer._chain = (der_of(authority.issue("site", "site-1", key=key, uris=["https://a.b"])),)
    with pytest.raises(BadIdentity):
        check(signer.sign(BINDING, NOW), authority)


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ("06072a8648ce3d0201", "06072a8648ce3d0209"),  # the kind of a key
        ("06082a8648ce3d030107", "06082a8648ce3d030177"),  # its curve
        ("0603551d0e", "0603551d25"),  # an extension's name, which is there twice then
    ],
    ids=["key", "curve", "extension"],
)
def test_a_certificate_that_cannot_be_read_is_refused(
    authority: Authority, part: str, instead: str
) -> None:
    files = authority.issue("site", "site-1")
    odd = der_of(files).replace(bytes.fromhex(part), bytes.fromhex(instead))
    signer = Signer(files)
    signer._chain = (odd,)
    with pytest.raises(BadToken):
        check(signer.sign(BINDING, NOW), authority)


def test_a_doubled_extension_names_nobody(authority: Authority) -> None:
    whole = der_of(authority.issue("site", "site-1"))
    odd = whole.replace(bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d25"))
    with pytest.raises(BadIdentity):
        certified(odd)
    with pytest.raises(BadIdentity):
        read(x509.load_der_x509_certificate(odd))


def test_keys_that_do_not_fit_are_found_at_once(authority: Authority) -> None:
    one, other = authority.issue("site", "site-1"), authority.issue("site", "site-2")
    with pytest.raises(BadKeyFiles, match="not the key"):
        Signer(replace(one, key=other.key))
    with pytest.raises(BadKeyFiles, match="expected a key"):
        Signer(replace(one, key=one.chain))
    with pytest.raises(BadKeyFiles, match="No such file"):
        Signer(replace(one, key=one.key.with_name("none")))
    odd = authority.issue("site", "site-1", key=ec.generate_private_key(ec.SECP521R1()))
    with pytest.raises(BadKeyFiles, match="P-256"):
        Signer(odd)
    assert leaf_of(one) != leaf_of(other)
