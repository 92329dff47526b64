"""`python -m benchmarks.peers`."""

from __future__ import annotations

from .run import main

main()
