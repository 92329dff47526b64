"""What is changed, and which tests are to notice."""

from __future__ import annotations

from typing import Final

_RUNTIME: Final = "tests/actors/runtime/test_{}.py"


def _runtime(*first: str) -> tuple[str, ...]:
    """The tests of the runtime, the nearest first, without what crosses links or real loops."""
    every = (
        "mailbox consumer supervision lifecycle asks contracts actor clock streams observing "
        "stateful"
    )
    names = dict.fromkeys((*first, *every.split()))
    return tuple(_RUNTIME.format(name) for name in names)


#: Each file in scope and the tests that run against its mutants, in this order.
SCOPE: Final[dict[str, tuple[str, ...]]] = {
    "actors/runtime/mailbox.py": _runtime("mailbox"),
    "actors/runtime/supervision.py": _runtime("supervision"),
    "actors/runtime/consumer.py": _runtime("consumer", "contracts", "asks", "mailbox", "observing")
    + tuple(_RUNTIME.format(name) for name in ("links", "network")),
    "actors/roles/leases.py": ("tests/actors/roles/test_leases.py",),
    "actors/roles/buffering.py": (
        "tests/actors/roles/test_buffering.py",
        "tests/actors/roles/test_buffering_in_threads.py",
        "tests/actors/roles/test_buffering_failures.py",
    ),
    "algorithms/buffer.py": (
        "tests/algorithms/test_buffer.py",
        "tests/algorithms/test_fedbuff.py",
    ),
    "algorithms/accumulate.py": (
        "tests/algorithms/test_accumulate.py",
        "tests/algorithms/test_buffer.py",
    ),
}

#: At least so many of a hundred are to be killed, those that nothing can notice counted too.
WANTED_PERCENT: Final = 85
