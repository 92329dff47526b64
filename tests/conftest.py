"""What every test needs."""

from __future__ import annotations

import signal

# A shell that runs the suite in the background has SIGINT ignored, and every process started from
# here would inherit that: tests that interrupt real commands would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
