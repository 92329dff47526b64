"""TLS contexts: what is demanded, and which files are refused."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from covey.security.errors import BadKeyFiles
from covey.security.tls import (
    KeyFiles,
    client_context_maker,
    contents,
    proxy_context_maker,
    server_context,
)
from tests.pki import Authority


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> KeyFiles:
    return Authority(tmp_path_factory.mktemp("pki")).issue("relay", "relay-1")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> ssl.SSLObject:
    """The server's side of TLS in memory; raises what either side raises."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    listening = server.wrap_bio(up, down, server_side=True)
    dialing = client.wrap_bio(down, up, server_hostname=host)
    done: set[ssl.SSLObject] = set()
    for _ in range(4):
        for side in (dialing, listening):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            done.add(side)
    assert done == {dialing, listening}
    return listening


def test_both_sides_show_and_check_certificates_over_tls_1_3(files: KeyFiles) -> None:
    client = client_context_maker(files)(["covey/1"])
    found = handshake(server_context(files), client, "localhost")
    assert found.version() == "TLSv1.3"
    assert found.getpeercert(binary_form=True)
    assert found.compression() is None


def test_a_certificate_is_for_the_host_that_was_dialed(files: KeyFiles) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(server_context(files), client_context_maker(files)([]), "elsewhere.example")
    loose = client_context_maker(files, check_hostname=False)
    assert handshake(server_context(files), loose([]), "elsewhere.example")


def test_nothing_older_than_tls_1_3_is_spoken(files: KeyFiles) -> None:
    old = ssl.create_default_context(cafile=files.roots)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        handshake(server_context(files), old, "localhost")


def test_no_session_can_be_resumed_past_the_look_at_its_certificate(files: KeyFiles) -> None:
    server = server_context(files)
    assert server.num_tickets == 0
    assert server.options & ssl.OP_NO_TICKET
    assert server.verify_flags & ssl.VERIFY_X509_STRICT


def test_where_tls_ends_at_a_proxy_its_authority_is_trusted_and_nothing_shown(
    files: KeyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = Authority(tmp_path).issue("server", "balancer")
    proxy = server_context(replace(outside, roots=files.roots))
    found = handshake(proxy, proxy_context_maker(outside.roots)([]), "localhost")
    assert found.getpeercert(binary_form=True) is None
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(proxy, client_context_maker(files)([]), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(proxy, proxy_context_maker()([]), "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(outside.roots))
    assert handshake(proxy, proxy_context_maker()([]), "localhost")


def test_a_context_is_made_once_for_each_list_of_protocols(files: KeyFiles) -> None:
    make = client_context_maker(files)
    assert make(["covey/1"]) is make(["covey/1"])
    assert make(["covey/1"]) is not make(["h2"])


def test_the_same_files_serve_libraries_with_a_tls_of_their_own(files: KeyFiles) -> None:
    pem = files.pem()
    assert pem.chain == files.chain.read_bytes()
    assert pem.key.startswith(b"-----BEGIN PRIVATE KEY")
    assert pem.roots == files.roots.read_bytes()


def test_files_that_do_not_serve_are_named_at_once(files: KeyFiles, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    with pytest.raises(BadKeyFiles, match="nothing"):
        server_context(replace(files, roots=nothing))
    nothing.write_text("nothing")
    for name in ("chain", "key", "roots", "revoked"):
        with pytest.raises(BadKeyFiles, match="nothing"):
            server_context(replace(files, **{name: nothing}))
    with pytest.raises(BadKeyFiles, match="nothing"):
        proxy_context_maker(nothing)
    with pytest.raises(BadKeyFiles, match="nothing"):
        client_context_maker(replace(files, chain=nothing))


def test_an_encrypted_key_is_refused_instead_of_asking_the_terminal(
    files: KeyFiles, tmp_path: Path
) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    secret = tmp_path / "secret.key"
    secret.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    )
    with pytest.raises(BadKeyFiles, match="encrypted"):
        server_context(replace(files, key=secret))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.pem"
    with large.open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(BadKeyFiles, match="more than"):
        contents(large)
