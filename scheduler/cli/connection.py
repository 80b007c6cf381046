"""From `--home` to an open connection."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduler.control.client import ControlClient
    from scheduler.home import Home


def home_of(option: Path | None) -> "Home":
    """The home a command means: its option, else the environment, else the user's own."""
    from scheduler.home import Home, default_home

    return Home(option if option is not None else default_home())


def connect(option: Path | None, *, seconds: float = 5.0) -> "ControlClient":
    """Open a connection to the daemon. Raises ControlError with a sentence that says what to do."""
    from scheduler.control.client import ControlClient, connect_unix

    home = home_of(option)
    return ControlClient(lambda: connect_unix(home.control_socket, home=home.path, seconds=seconds))


def ask(option: Path | None, op: str, **args: Any) -> Any:
    """Send one request and return its result. Raises ControlError."""
    with connect(option) as client:
        return client.call(op, **args)
