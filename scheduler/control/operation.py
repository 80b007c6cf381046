"""What an operation of the control socket is: the type of its arguments and the function that serves it."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import msgspec
from attrs import frozen


class Arguments(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """No arguments; subclasses add theirs. A closed set of names, checked before the handler runs."""


C = TypeVar("C")
A = TypeVar("A", bound=Arguments)


@frozen
class Operation(Generic[C, A]):
    """What one operation takes and who serves it."""

    arguments: type[A]
    run: Callable[[C, A], Awaitable[Any]]
    waits: bool = False
    """It waits for something to happen: a client that hangs up ends it."""
