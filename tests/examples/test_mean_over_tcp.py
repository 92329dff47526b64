"""The example of actors on several nodes, as its page says: three processes and their sockets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "mean_over_tcp"


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=EXAMPLE, stdout=subprocess.PIPE, text=True)


def test_two_sites_come_by_different_doors_and_all_three_end_by_themselves() -> None:
    with start("server.py", "2", "0") as server:
        assert server.stdout is not None
        port = server.stdout.readline().split()[-1]
        urls = [f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"]
        sites = [
            start("site_node.py", f"site-{number}", str(number), "2", url)
            for number, url in enumerate(urls)
        ]
        output = server.stdout.read()
        assert server.wait(60) == 0
        for site in sites:
            with site:
                assert site.wait(60) == 0
    said = [f"{n} of 2 sites have joined" for n in (1, 2)]
    said.append("mean radius of 569 tumours at 2 of 2 sites: 14.127")
    assert output.splitlines() == said
    page = (EXAMPLE / "README.md").read_text()
    assert all(f"    {line}\n" in page for line in said)
