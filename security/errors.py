"""Why somebody is not who they say, one class per reason.

Here: the exceptions of this room. Each has a `code`, a word by which refusals are counted and on
which a program can act; the text says what exactly, for people.
"""

from __future__ import annotations

from typing import ClassVar


class SecurityError(Exception):
    """Root of every error raised by `covey.security`.

    Attributes:
        code: The reason in a word.
        why: The reason in a sentence.
    """

    code: ClassVar[str] = "security"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class BadKeyFiles(SecurityError):
    """Files with keys and certificates cannot be used; nothing was begun."""

    code = "key-files"


class BadIdentity(SecurityError):
    """A certificate names nobody of a federation, or more than one."""

    code = "identity"


class WrongFederation(SecurityError):
    """A certificate names somebody of another federation."""

    code = "federation"


class WrongKind(SecurityError):
    """A certificate is for another use: a server's, say, where a site's is wanted."""

    code = "wrong-kind"


class WrongAuthority(SecurityError):
    """No authority that is trusted here has issued a certificate."""

    code = "wrong-authority"


class Expired(SecurityError):
    """A certificate is not valid yet, or not any more."""

    code = "expired"


class Revoked(SecurityError):
    """A certificate, or whoever it names, has been revoked."""

    code = "revoked"


class BadToken(SecurityError):
    """Bytes that are no token, or one signed by somebody else."""

    code = "token"


class TokenExpired(BadToken):
    """A token's time is over, has not begun, or is longer than any may be."""

    code = "token-expired"


class TokenSession(BadToken):
    """A token was made for another connection."""

    code = "token-session"


class TokenReplayed(TokenSession):
    """A token was made for another connection, and has let somebody in there."""

    code = "token-replayed"


class TokenName(BadToken):
    """A token names somebody else than the certificate it comes with, or than its bearer."""

    code = "token-name"
