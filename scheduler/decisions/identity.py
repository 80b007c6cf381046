"""The names of runs."""

from datetime import UTC, datetime

from scheduler.model import RunType


def run_id(run_type: RunType, run_after: datetime, *, suffix: str = "") -> str:
    """`<type>__<instant>`, the instant in UTC; undated manual runs carry a random suffix."""
    instant = run_after.astimezone(UTC).isoformat()
    return f"{run_type}__{instant}" + (f"__{suffix}" if suffix else "")
