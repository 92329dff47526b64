"""Behind a real nginx that ends TLS: who dials is told by a token."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from covey.actors.runtime.identity import NodeIdentity, Proxy
from covey.security.tls import KeyFiles
from covey.transport import Limits, Registry
from covey.transport.dialer import Dialer, Dialing
from covey.transport.endpoint import Endpoint
from covey.transport.listener import Listener, Listening
from covey.transport.sessions.handshake import Terms
from covey.transport.sessions.link import SessionLink
from tests.pki import Authority

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

pytestmark = pytest.mark.skipif(
    not Path(NGINX).exists() and os.environ.get("COVEY_NGINX") != "required",
    reason="there is no nginx here",
)

CONF = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
            proxy_buffering off;
        }}
    }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def nginx(folder: Path, files: KeyFiles, upstream: int) -> AsyncGenerator[int]:
    """An nginx that ends TLS; the port on which it listens."""
    port = free_port()
    conf = folder / "nginx.conf"
    conf.write_text(
        CONF.format(folder=folder, port=port, chain=files.chain, key=files.key, upstream=upstream)
    )
    running = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(folder), "-c", str(conf), stderr=asyncio.subprocess.PIPE
    )
    try:
        await until_listening(port, running)
        yield port
    finally:
        if running.returncode is None:
            running.terminate()
        await running.communicate()


async def until_listening(port: int, running: asyncio.subprocess.Process) -> None:
    """Wait until a port is open; fail if the process has ended."""
    while running.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return
    raise AssertionError((await running.communicate())[1])


@pytest.mark.parametrize("way", ["upgrade", "websocket"])
def test_a_node_behind_nginx_comes_in_by_a_token(tmp_path: Path, way: str) -> None:
    authority, outside = Authority(tmp_path / "inside"), Authority(tmp_path / "outside")
    server = NodeIdentity(authority.issue("server", "server"), tokens=True, plaintext=True)
    site = NodeIdentity(authority.issue("site", "site-1"), proxy=Proxy(outside.roots))
    registry = Registry()
    registry.freeze()

    async def main() -> None:
        came: asyncio.Queue[SessionLink] = asyncio.Queue()
        listening = Listening(
            Terms("server", Limits()), registry, server.doorkeeper, came.put_nowait
        )
        listener = Listener(listening)
        await listener.open("127.0.0.1", 0)
        async with nginx(tmp_path, outside.issue("server", "nginx"), listener.port) as port:
            dialing = Dialing(
                Endpoint("localhost", port, (way,), encrypted=True),
                Terms("site-1", Limits()),
                registry,
                site.credentials,
                lambda link: link.start(lambda envelope: None, lambda why: None),
                site.dialer_tls,
                site.certificate,
            )
            dialer = Dialer(dialing)
            running = asyncio.create_task(dialer.run())
            await dialer.first
            link = await came.get()
            assert link.peer == "site-1"
            assert link.connection is not None
            assert link.connection.presented.door == way
            assert link.connection.presented.certificate is None
            running.cancel()
            await asyncio.wait([running])
        await listener.close()

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())
