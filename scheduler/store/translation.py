"""What an exception from the driver means: weather, a conflict, a refusal, an unknown outcome, or a bug."""

import asyncpg
import sqlalchemy as sa

from scheduler.store.errors import DEADLOCK, Conflict, DatabaseRefused, OutcomeUnknown, StoreUnavailable

CONFLICTS = frozenset({"40001", DEADLOCK, "55P03", "57014"})
AWAY = frozenset({"53300", "57P01", "57P02", "57P03", "25P03", "25P04"})
REFUSED = {
    "3D000": "the database does not exist: create it with createdb",
    "28000": "access denied: check the user and how PostgreSQL authenticates it",
    "28P01": "access denied: the password is wrong",
}


_BROKEN = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sa.exc.InterfaceError,
    sa.exc.TimeoutError,
)
"""The connection, not the statement."""


def _sqlstate(error: BaseException) -> str | None:
    original = getattr(error, "orig", error)
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return state if isinstance(state, str) else None


def translate(error: BaseException, *, committing: bool, xid: str | None) -> Exception | None:
    """Sort an exception from below: ours to raise instead, or None if it is a bug and passes unchanged."""
    state = _sqlstate(error)
    lost = (
        isinstance(error, _BROKEN)
        or (isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated)
        or (state is not None and (state.startswith("08") or state in AWAY))
    )
    if committing and xid is not None and (lost or state == "57014"):
        return OutcomeUnknown(xid, status=None)
    if state in CONFLICTS:
        return Conflict(str(getattr(error, "orig", error)), sqlstate=str(state))
    if state in REFUSED:
        return DatabaseRefused(f"{REFUSED[state]} ({getattr(error, 'orig', error)})")
    if lost:
        return StoreUnavailable(f"the database is away: {getattr(error, 'orig', error)!r}")
    return None
