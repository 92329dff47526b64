"""The same command twice: `python twice.py COMMAND ...`; writes the seconds of each.

The first of them leaves a superlink running, which the second finds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from benchmarks.peers.work.settings import Work


def main():
    """Run, and run again."""
    work, times = Work.from_environment(), []
    for _ in range(2):
        work.done.unlink(missing_ok=True)
        began = time.monotonic()
        subprocess.run(sys.argv[1:], check=True)
        times.append(time.monotonic() - began)
    work.times.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
