"""Which certificates name somebody, and whom."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.security.certificates import (
    CERTIFICATE_BYTES,
    KINDS,
    Identity,
    certificates_of,
    certified,
    revoked_serials,
)
from covey.security.errors import BadIdentity, BadKeyFiles
from tests.pki import FEDERATION, HOUR, Authority, der_of, leaf_of


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_names_its_bearer_by_its_uri(tmp_path: Path, kind: str) -> None:
    files = Authority(tmp_path).issue(kind, "north-1.b_2", common_name="somebody-else")
    found = certified(der_of(files))
    assert found.identity == Identity(FEDERATION, kind, "north-1.b_2")
    assert found.serial == leaf_of(files).serial_number


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "site-1",
        "https://hospitals.example/site/site-1",
        "SPIFFE://hospitals.example/site/site-1",
        "spiffe:hospitals.example/site/site-1",
        "spiffe:///site/site-1",
        "spiffe://hospitals.example/site",
        "spiffe://hospitals.example/site/",
        "spiffe://hospitals.example/site/site-1/",
        "spiffe://hospitals.example//site-1",
        "spiffe://hospitals.example/site/a/b",
        "spiffe://hospitals.example/king/site-1",
        "spiffe://hospitals.example/Site/site-1",
        "spiffe://Hospitals.example/site/site-1",
        "spiffe://hospitals.example:443/site/site-1",
        "spiffe://user@hospitals.example/site/site-1",
        "spiffe://hospitals.example/site/site-1?x",
        "spiffe://hospitals.example/site/site-1#x",
        "spiffe://hospitals.example/site/site%2d1",
        "spiffe://hospitals.example/site/..",
        "spiffe://hospitals.example/site/-1",
        "spiffe://hospitals.example/site/site 1",
        "spiffe://hospitals.example/site/site-1\n",
        "spiffe://hospitals.example/site/s\u0131te",
        f"spiffe://hospitals.example/site/{'x' * 129}",
        f"spiffe://{'x' * 129}/site/site-1",
        " spiffe://hospitals.example/site/site-1",
    ],
)
def test_a_name_is_spelt_in_one_way_only(uri: str) -> None:
    with pytest.raises(BadIdentity):
        Identity.parse(uri)


@given(st.from_regex(r"spiffe://[a-z.]{0,5}/(site|job)/[\w./%-]{0,8}", fullmatch=True))
def test_what_is_read_is_written_the_same(uri: str) -> None:
    try:
        found = Identity.parse(uri)
    except BadIdentity:
        return
    assert str(found) == uri


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["spiffe://hospitals.example/site/a", "spiffe://hospitals.example/site/b"],
        ["spiffe://hospitals.example/site/a", "https://a.example"],
        ["https://a.example"],
    ],
)
def test_a_certificate_with_no_name_or_with_two_names_nobody(
    tmp_path: Path, uris: list[str]
) -> None:
    with pytest.raises(BadIdentity):
        certified(der_of(Authority(tmp_path).issue("site", "site-1", uris=uris)))


def test_an_authority_is_nobody(tmp_path: Path) -> None:
    with pytest.raises(BadIdentity, match="authority"):
        certified(der_of(Authority(tmp_path).issue("site", "site-1", ca=True)))


@pytest.mark.parametrize("data", [b"", b"0", b"\x30\x03\x02\x01\x00", bytes(CERTIFICATE_BYTES + 1)])
def test_what_is_no_certificate_names_nobody(data: bytes) -> None:
    with pytest.raises(BadIdentity):
        certified(data)


@given(data=st.data())
def test_a_damaged_certificate_names_nobody_or_somebody_but_never_crashes(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = bytearray(_certificate(tmp_path_factory))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadIdentity):
        certified(bytes(good))


_made: list[bytes] = []


def _certificate(folders: pytest.TempPathFactory) -> bytes:
    if not _made:
        _made.append(der_of(Authority(folders.mktemp("pki")).issue("site", "site-1")))
    return _made[0]


def test_a_list_of_the_revoked_counts_if_a_trusted_authority_signed_it(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    files = authority.issue("site", "site-1")
    path = authority.revoke(files)
    roots = certificates_of(authority.roots.read_bytes(), authority.roots)
    serials = revoked_serials(path.read_bytes(), roots, path)
    assert serials == {leaf_of(files).serial_number}
    with pytest.raises(BadKeyFiles, match="signed"):
        revoked_serials(path.read_bytes(), [other.certificate], path)
    late = authority.revocations(due=-HOUR).read_bytes()
    with pytest.raises(BadKeyFiles, match="due"):
        revoked_serials(late, roots, path)
    with pytest.raises(BadKeyFiles, match="expected a list"):
        revoked_serials(b"nothing", roots, path)


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadKeyFiles, match=r"roots\.pem"):
        certificates_of(b"nothing", tmp_path / "roots.pem")
