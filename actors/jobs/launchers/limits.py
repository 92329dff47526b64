"""What the link between a script and its trainer may carry.

Here: the numbers, used by both ends. Not here: the general limits (`covey.transport`).
"""

from __future__ import annotations

from typing import Final

from covey.transport import Limits

#: A script's whole environment goes in one message: Linux allows 128 KiB for a single variable
#: (MAX_ARG_STRLEN), and clusters set thousands. Tensors never travel as a body.
LINK_LIMITS: Final = Limits(
    meta_bytes=4 << 20, body_bytes=0, str_bytes=128 << 10, map_items=8192, fds=1
)
