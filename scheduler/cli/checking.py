"""`dags check PATH`: parse DAG files here, as the daemon would, without one."""

from pathlib import Path
from typing import Any


def check(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Parse a DAG file or all of a directory: the errors as {"file", "line", "message"}, and a summary."""
    raise NotImplementedError(path)
