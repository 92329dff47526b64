"""Who is denied, and whom that concerns."""

from __future__ import annotations

import pytest

from covey.security.certificates import Certified, Identity
from covey.security.errors import Revoked
from covey.security.revocation import Denied

SITE = Certified(Identity("hospitals.example", "site", "site-1"), 7)
RENEWED = Certified(SITE.identity, 8)


def test_a_name_is_denied_whatever_it_shows() -> None:
    denied = Denied()
    denied.check(SITE)
    assert denied.deny_name("site-1", "it was stolen") == {"site-1"}
    for shown in (SITE, RENEWED):
        with pytest.raises(Revoked, match="it was stolen"):
            denied.check(shown)
    denied.allow_name("site-1")
    denied.check(SITE)


def test_a_certificate_is_denied_alone() -> None:
    denied = Denied()
    denied.check(SITE)
    assert denied.deny_serial(7, "the key has leaked") == {"site-1"}
    with pytest.raises(Revoked, match="leaked"):
        denied.check(SITE)
    denied.check(RENEWED)


def test_denying_an_old_certificate_concerns_who_came_in_by_it_and_by_a_new_one() -> None:
    denied = Denied()
    denied.check(SITE)
    denied.check(RENEWED)
    assert denied.deny_serial(7, "the key has leaked") == {"site-1"}
    denied.check(RENEWED)  # and comes back


def test_only_so_many_certificates_of_a_name_are_remembered() -> None:
    denied = Denied()
    for serial in range(100):
        denied.check(Certified(SITE.identity, serial))
        denied.check(SITE)
    assert denied.deny_serial(0, "old") == frozenset()
    assert denied.deny_serial(7, "used again and again") == {"site-1"}
    assert denied.deny_serial(99, "new") == {"site-1"}


def test_what_the_authority_has_revoked_is_denied_from_the_start() -> None:
    with pytest.raises(Revoked, match="authority"):
        Denied({7}).check(SITE)
