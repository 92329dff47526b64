"""Who may not come in any more, from this moment on.

Here: names and serial numbers of certificates that are denied. Not here: closing what is open
(whoever revokes is told what that is).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from .certificates import Certified
from .errors import Revoked

#: Certificates that are remembered of each name: what it came in by, and a few renewals.
_REMEMBERED: Final = 16


class Denied:
    """A list of the denied, by name or by certificate.

    A name is denied whatever certificate is shown for it; a certificate is denied alone, so that
    its bearer can come back with a new one.

    Args:
        serials: Serial numbers of certificates that are revoked already.
    """

    def __init__(self, serials: Iterable[int] = ()) -> None:
        self._names: dict[str, str] = {}
        self._serials = dict.fromkeys(serials, "the authority has revoked its certificate")
        # Who was let in, by which certificates: to know whom it concerns that one is denied. The
        # last one is not enough: a session may live on that was opened by one before.
        self._seen: dict[str, OrderedDict[int, None]] = {}

    def deny_name(self, name: str, why: str) -> frozenset[str]:
        """Let nobody of this name in; returns the names whose connections are to be closed."""
        self._names[name] = why
        return frozenset({name})

    def deny_serial(self, serial: int, why: str) -> frozenset[str]:
        """Let nobody in by this certificate; returns the names that came in by it."""
        self._serials[serial] = why
        return frozenset(name for name, seen in self._seen.items() if serial in seen)

    def allow_name(self, name: str) -> None:
        """Take a name off the list."""
        self._names.pop(name, None)

    def check(self, certified: Certified) -> None:
        """Note that somebody comes in by a certificate; raises `Revoked` if they may not."""
        name = certified.identity.name
        why = self._names.get(name) or self._serials.get(certified.serial)
        if why is not None:
            raise Revoked(f"{name}: {why}")
        seen = self._seen.setdefault(name, OrderedDict())
        seen[certified.serial] = None
        seen.move_to_end(certified.serial)
        if len(seen) > _REMEMBERED:
            seen.popitem(last=False)
