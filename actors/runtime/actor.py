"""The base class of actors and the table of their handlers.

A handler is a method marked `@handles`; the annotation of its one parameter
says which message it takes. `async def` handlers may await; plain `def`
handlers cannot block and are cheapest; an async generator serves a `Pull`. The
table is checked when the class is made, so a wrong annotation is an import
error and never a lost message.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .message import Message, Pull

if TYPE_CHECKING:
    from .context import Context

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__covey_handles__"


@dataclass(frozen=True, slots=True)
class Handler:
    """One row of an actor class's table: the unbound method and how it is called.

    Neither `awaited` nor `stream` is a plain function. Two bools and no enum:
    they are read for every message.
    """

    call: Callable[[Any, Any], Any]
    name: str
    awaited: bool
    stream: bool

    @classmethod
    def of(cls, method: Callable[[Any, Any], Any]) -> Handler:
        """The row of a method."""
        stream, awaited = inspect.isasyncgenfunction(method), inspect.iscoroutinefunction(method)
        return cls(method, method.__name__, awaited, stream)


def handles(method: F) -> F:
    """Mark a method as the handler of the message its parameter is annotated with."""
    setattr(method, _MARK, True)
    return method


class Actor:
    """Base class of actors: state that only its own handlers touch, one message at a time.

    `ctx` is what the actor may do (spawn, watch, timers, ...); it is set before
    `started` and is not available in `__init__`.
    """

    handlers: ClassVar[dict[type, Handler]] = {}
    # Those that are no streams: what a message told or asked is looked up in.
    functions: ClassVar[dict[type, Handler]] = {}
    ctx: Context

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        table: dict[type, Handler] = {}
        for base in reversed(cls.__mro__[1:]):
            table.update(getattr(base, "handlers", {}))
        for name, method in vars(cls).items():
            if getattr(method, _MARK, False):
                message, handler = _read(cls, name, method)
                table[message] = handler
        # An overriding method serves its message also where the mark is not repeated.
        for message, handler in table.items():
            latest = getattr(cls, handler.name)
            if latest is not handler.call:
                table[message] = Handler.of(latest)
        cls.handlers = table
        cls.functions = {message: row for message, row in table.items() if not row.stream}

    async def started(self) -> None:
        """Run before the first message, at the first start and at every restart.

        An exception counts as a failure of the actor.
        """

    async def stopping(self, reason: str) -> None:
        """Run after the last message, at a stop and before a restart, also if `started` failed.

        It has the system's grace to finish and is cancelled then. Exceptions are logged.
        """


def _read(cls: type, name: str, method: Any) -> tuple[type, Handler]:
    where = f"{cls.__qualname__}.{name}"
    parameters = list(inspect.signature(method).parameters)
    if len(parameters) != 2:
        raise TypeError(f"{where} must take exactly one message besides self")
    try:
        hints = typing.get_type_hints(method)
    except NameError as error:
        raise TypeError(
            f"{where}: the annotation names {error.name!r}, which is not defined here; "
            "define messages before their actors and import them at run time"
        ) from error
    message: Any = hints.get(parameters[1])
    if not _is_message(message):
        raise TypeError(f"{where}: annotate {parameters[1]!r} with a Message or Pull class")
    handler = Handler.of(method)
    if handler.stream != issubclass(message, Pull):
        raise TypeError(
            f"{where}: a Pull is served by an async generator, a Message by a function; "
            f"{message.__name__} is a {'Pull' if issubclass(message, Pull) else 'Message'}"
        )
    if not handler.stream:
        _check_reply(where, message, hints.get("return"))
    return message, handler


def _is_message(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, (Message, Pull))


def _check_reply(where: str, message: type, got: Any) -> None:
    """Hold the handler's return annotation against the reply its message promises."""
    expected = reply_type(message)
    if expected is None or isinstance(expected, (TypeVar, typing.ForwardRef, str)):
        return
    if got is not None and not _fits(got, expected):
        raise TypeError(f"{where} returns {got}, but {message.__name__} promises {expected}")


def _fits(got: Any, expected: Any) -> bool:
    if got == expected or expected is Any or got is Any:
        return True
    return inspect.isclass(got) and inspect.isclass(expected) and issubclass(got, expected)


def reply_type(message: type) -> Any:
    """The reply named in the message's bases, None where there is none to see."""
    for klass in message.__mro__:
        for base in getattr(klass, "__orig_bases__", ()):
            if typing.get_origin(base) in (Message, Pull):
                reply = typing.get_args(base)[1]
                return type(None) if reply is None else reply
    return None
