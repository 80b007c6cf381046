"""What can go wrong between us and the database, sorted by what the caller does about it."""

from nurseries.errors import Unavailable, Weather

DEADLOCK = "40P01"


class StoreUnavailable(Unavailable):
    """The database cannot be reached or answers too late; nothing was committed."""


class Conflict(Weather):
    """The database refused this transaction because of another one; nothing was committed, try again.

    `sqlstate` is the five-character code: 40001, 40P01 (which our lock order promises never to see),
    55P03 (a lock was not granted in time) or 57014 (a statement was too slow).
    """

    def __init__(self, message: str, *, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class OutcomeUnknown(Weather):
    """COMMIT was sent and no answer came: the transaction may or may not have happened.

    It is never guessed. Whoever catches this reads by the key of what it wrote (claim token, run id) and
    believes that; routines simply step again, since every write is a compare-and-set.
    `status` is what `pg_xact_status(xid)` said afterwards: "committed", "aborted", or None if it does not know.
    """

    def __init__(self, xid: str, *, status: str | None) -> None:
        super().__init__(f"no answer to COMMIT of transaction {xid} (afterwards: {status or 'unknown'})")
        self.xid = xid
        self.status = status


class LockOrderError(AssertionError):
    """A transaction broke the law of locks: a bug, and the daemon stops."""


class SchemaMismatch(Exception):
    """The database's schema is not the one this version needs; the message says what to do."""


class DatabaseRefused(Exception):
    """The database cannot be used at all (too old, no such database, access denied); the message says why."""
