"""What can go wrong with blobs.

Here: the exceptions of this package. Not here: errors about the tensors inside a blob
(`covey.algorithms`).
"""

from __future__ import annotations


class BlobError(Exception):
    """Root of this package's errors."""


class BadBlob(BlobError):
    """A file or descriptor cannot be taken as a blob.

    Attributes:
        source: What was looked at.
        why: What is wrong with it.
    """

    def __init__(self, source: str, why: str) -> None:
        super().__init__(source, why)
        self.source = source
        self.why = why

    def __str__(self) -> str:
        return f"{self.source} cannot be read as a blob: {self.why}"


class UnknownBlob(BlobError):
    """No blob is registered under a RID: never was, or it has been released.

    Attributes:
        rid: The RID. Its text form is cut short: whoever knows a whole RID may read the blob.
    """

    def __init__(self, rid: bytes) -> None:
        super().__init__(rid)
        self.rid = rid

    def __str__(self) -> str:
        name = self.rid[:4].hex()
        return f"no blob is registered as {name}...: it was released, or never registered"
