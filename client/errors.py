"""What a training script can be told by the Client API.

Here: the exceptions of this room; each says what was wrong and what to do. They are raised at
the user's own line. Not here: how the script's own errors reach its trainer (`running.py`).
"""

from __future__ import annotations


class ClientError(Exception):
    """Root of every error raised by `covey.client`."""


class NotInRun(ClientError, RuntimeError):
    """The Client API was used outside a run, so there is nobody to talk to.

    Attributes:
        call: The function that was called.
    """

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.call = call

    def __str__(self) -> str:
        return (
            f"{self.call} was called outside a run: this script is started by a recipe, not by "
            "itself. Name it in FedAvgRecipe(..., train_script=...) and run the file that builds "
            "the recipe"
        )


class WrongCall(ClientError, RuntimeError):
    """The functions of the Client API were called in an order that makes no sense.

    Attributes:
        call: The function that was called.
        why: What is missing, and what to call instead.
    """

    def __init__(self, call: str, why: str) -> None:
        super().__init__(call, why)
        self.call = call
        self.why = why

    def __str__(self) -> str:
        return f"{self.call}: {self.why}"


class BadModel(ClientError, ValueError):
    """An `FLModel` cannot be made or sent as it is.

    Attributes:
        field: The part that is wrong, such as `params["fc.weight"]`.
        why: What is wrong with it, and what was expected.
    """

    def __init__(self, field: str, why: str) -> None:
        super().__init__(field, why)
        self.field = field
        self.why = why

    def __str__(self) -> str:
        return f"{self.field}: {self.why}"


class BadMetric(ClientError, ValueError):
    """A value cannot be logged.

    Attributes:
        key: Name of the curve.
        why: What is wrong, and what was expected.
    """

    def __init__(self, key: str, why: str) -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        return f"metric {self.key!r}: {self.why}"


class RunEnded(ClientError, RuntimeError):
    """The other side of the link is gone: the run was aborted, or its process has died.

    A script does not normally see it: it is ended together with the run.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the run has ended: {self.why}"
