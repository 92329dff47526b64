"""`python site_node.py NAME PART PARTS [URL]`: joins the server, and answers until it leaves."""

from __future__ import annotations

import asyncio
import csv
import sys
from pathlib import Path

from summing import Collector, Statistician, registry

from covey.actors.runtime import System

DATA = Path(__file__).parent.parent / "hello_numpy" / "tumours.csv"


async def main(name: str, part: int, parts: int, url: str) -> None:
    """Take part with every `parts`-th case from number `part` on."""
    with DATA.open(newline="") as file:
        rows = list(csv.DictReader(file))[part::parts]
    over = asyncio.Event()
    async with System(name, registry=registry(), connect=url) as system:
        collector = system.lookup("server/collector", Collector)
        await system.spawn(lambda: Statistician(rows, collector, over), name="statistician")
        await over.wait()
        print("the server has left")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    where = sys.argv[4] if len(sys.argv) > 4 else "http://127.0.0.1:8765"
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), where))
