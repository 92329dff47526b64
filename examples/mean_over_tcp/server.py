"""`python server.py SITES [PORT]`: waits for so many sites and asks them all for their sums."""

from __future__ import annotations

import asyncio
import sys

from summing import Collector, Statistician, Sums, SumUp, registry

from covey.actors.runtime import System, broadcast


async def main(sites: int, port: int) -> None:
    """Serve once."""
    async with System("server", registry=registry(), listen=f"127.0.0.1:{port}") as system:
        print(f"listening on port {system.port}", flush=True)
        joined: asyncio.Queue[str] = asyncio.Queue()
        await system.spawn(lambda: Collector(joined), name="collector")
        refs = [system.lookup(await joined.get(), Statistician) for _ in range(sites)]
        count, total = 0, 0.0
        for ref, answer in (await broadcast(refs, SumUp("radius"), timeout=10)).items():
            if isinstance(answer, Sums):
                count, total = count + answer.count, total + answer.total
            else:
                print(f"{ref.text}: {answer}")
        print(f"mean radius of {count} tumours: {total / count:.3f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8765))
