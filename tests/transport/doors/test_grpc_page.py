"""The client on the page on gRPC, in a process without covey, and the shipped definition."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from covey.transport.doors.grpc import METHOD, SERVICE
from tests.docs.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "grpc.md").read_text(encoding="utf-8")
LISTENER = "tests.transport.doors.programs.grpc_listener"


def block(language: str) -> str:
    found = [block.text for block in blocks(PAGE) if block.language == language]
    assert len(found) == 1, language
    return found[0]


def test_the_client_on_the_page_opens_a_session_and_is_answered(tmp_path: Path) -> None:
    client = tmp_path / "client.py"
    client.write_text(block("python"), encoding="utf-8")
    command = [sys.executable, "-m", LISTENER]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as listener:
        assert listener.stdout is not None
        arguments = json.loads(listener.stdout.readline())
        done = subprocess.run(
            [sys.executable, client, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        printed, _ = listener.communicate("", timeout=60)
    assert done.stderr == ""
    assert done.stdout == block("text")
    assert printed.splitlines() == ["site-1: site-1 has what it wanted", "['grpc']"]
    assert "covey" not in re.findall(r"^(?:import|from) (\w+)", block("python"), re.MULTILINE)


def test_the_definition_is_shipped_and_is_what_the_page_and_the_code_say() -> None:
    definition = (files("covey.transport.doors") / "covey.proto").read_text(encoding="utf-8")
    bare = re.sub(r"^\s*//.*\n", "", definition, flags=re.MULTILINE)
    assert block("proto") in bare
    package = re.findall(r"^package (.+);$", bare, re.MULTILINE)
    service = re.findall(r"^service (\w+) ", bare, re.MULTILINE)
    assert [f"{package[0]}.{service[0]}"] == [SERVICE]
    assert f"rpc {METHOD}(" in bare
    assert f"/{SERVICE}/{METHOD}" in PAGE
