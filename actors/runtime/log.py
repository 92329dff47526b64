"""The runtime's log: structlog's key-value events on a standard-library logger.

Through `logging`, so that an application that has configured nothing sees
warnings alone, and one that has keeps its own handlers and levels.
"""

from __future__ import annotations

import logging
from typing import Final

import structlog

log: Final[structlog.stdlib.BoundLogger] = structlog.wrap_logger(
    logging.getLogger("covey.actors"),
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.processors.KeyValueRenderer(key_order=["event"]),
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)
