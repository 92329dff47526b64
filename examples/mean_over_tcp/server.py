"""`python server.py SITES [PORT]`: waits for so many sites and asks them all for their sums."""

from __future__ import annotations

import asyncio
import sys

from summing import Collector, Statistician, Sums, SumUp, registry

from covey.actors.runtime import Ref, System, broadcast


async def main(sites: int, port: int) -> None:
    """Serve once."""
    async with System("server", registry=registry(), listen=f"127.0.0.1:{port}") as system:
        print(f"listening on port {system.port}", flush=True)
        joined: asyncio.Queue[str] = asyncio.Queue()
        await system.spawn(lambda: Collector(joined), name="collector")
        refs: set[Ref[Statistician]] = set()
        while len(refs) < sites:
            refs.add(system.lookup(await joined.get(), Statistician))
            print(f"{len(refs)} of {sites} sites have joined", flush=True)
        answers = await broadcast(refs, SumUp("radius"), timeout=10)
        sums = [answer for answer in answers.values() if isinstance(answer, Sums)]
        for answer in answers.values():
            if not isinstance(answer, Sums):
                print(answer)
        count = sum(each.count for each in sums)
        mean = sum(each.total for each in sums) / count if count else float("nan")
        print(f"mean radius of {count} tumours at {len(sums)} of {sites} sites: {mean:.3f}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8765))
