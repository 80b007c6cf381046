"""The control socket: how clients on this machine talk to the daemon. One JSON line in, one JSON line out.

protocol, client    the clients' side: the standard library only, quick to import
server, lines, listening, peers    the daemon's side of the socket
operation, handlers, shapes, context    what can be asked, and the answers

The names of the daemon's side are imported when they are first used, so that clients do not pay for them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduler.control.context import ControlContext
    from scheduler.control.server import ControlServer

__all__ = ["ControlContext", "ControlServer"]

_HOMES = {"ControlContext": "context", "ControlServer": "server"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
