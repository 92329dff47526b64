"""Calls that are under way when the program ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap

PROGRAM = """
import asyncio
import threading

from covey.actors.jobs.threads import Threads

started = threading.Event()


def train():
    started.set()
    try:
        while True:
            WORK
    except SystemExit:
        print("interrupted", flush=True)
        raise


async def main():
    threads = Threads()
    threads.begin(train)
    started.wait()
    threads.close()


asyncio.run(main())
print("over", flush=True)
"""


def run(work: str) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(PROGRAM).replace("WORK", work)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_call_that_works_is_interrupted_between_its_lines() -> None:
    done = run("sum(range(1000))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\ninterrupted\n", "")


def test_a_call_that_waits_for_something_else_holds_no_program_up() -> None:
    done = run("threading.Event().wait()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
