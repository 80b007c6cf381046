"""What can go wrong with the embedded server; every message is a sentence that says what to do."""

from pathlib import Path

from scheduler.home import HomeError


class PostgresError(Exception):
    """The embedded server cannot be made, started or kept running."""


class PostgresInUse(PostgresError, HomeError):
    """Another living process uses this data directory."""

    def __init__(self, path: Path, pid: int | None, remedy: str) -> None:
        self.path = path
        self.pid = pid
        who = f"process {pid}" if pid is not None else "another process"
        super().__init__(f"the PostgreSQL files in {path} are in use by {who}: {remedy}")
