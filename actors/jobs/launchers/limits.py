"""What a script's process and its trainer's side agree on beside the messages.

Here: what their link may carry, and an exit code; used by both ends. Not here: the general
limits (`covey.transport`).
"""

from __future__ import annotations

from typing import Final

from covey.transport import Limits

#: A script's whole environment goes in one message: Linux allows 128 KiB for a single variable
#: (MAX_ARG_STRLEN), and clusters set thousands. Tensors never travel as a body.
LINK_LIMITS: Final = Limits(
    meta_bytes=4 << 20, body_bytes=0, str_bytes=128 << 10, map_items=8192, fds=1
)

#: Exit code of a process that found its link ended; EX_UNAVAILABLE of sysexits.h.
ORPHANED: Final = 69
