"""Seats: daemons and workers that are alive as long as their lease, on the database's clock, has not ended."""

import sqlalchemy as sa
from attrs import frozen

from scheduler.store import tables as t
from scheduler.store.locks import Lock, Wait, locking
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, writer

BEAT_SECONDS = 5.0
LEASE_SECONDS = 15.0
"""Three beats: two may be lost before anybody is thought dead."""


@frozen(kw_only=True)
class Seat:
    """Who sits there. `uuid` is the identity written into attempts."""

    uuid: str
    kind: str
    hostname: str
    pid: int
    home: str


_BEFORE_AND_MINE = locking(
    Lock.SEAT,
    sa.or_(
        sa.and_(
            t.seat.c.kind == "daemon",
            t.seat.c.hostname == sa.bindparam("hostname"),
            t.seat.c.home == sa.bindparam("home"),
            t.seat.c.lease_until > sa.func.clock_timestamp(),
        ),
        t.seat.c.uuid == sa.bindparam("uuid", type_=t.seat.c.uuid.type),
    ),
    wait=Wait.WAIT,
)
_SUCCEED = sa.text(
    "UPDATE seat SET lease_until = clock_timestamp()"
    " + CASE WHEN uuid = CAST(:uuid AS uuid) THEN make_interval(secs => :lease) ELSE '0' END WHERE id = ANY(:keys)"
)
_INSERT = (
    "INSERT INTO seat (uuid, kind, hostname, pid, home, lease_until) VALUES (CAST(:uuid AS uuid), :kind,"
    " :hostname, :pid, :home, clock_timestamp() + make_interval(secs => :lease)) ON CONFLICT (uuid) "
)
_TAKE = sa.text(f"{_INSERT}DO NOTHING RETURNING id")
_REGISTER = sa.text(f"{_INSERT}DO UPDATE SET lease_until = excluded.lease_until")
_BEAT = sa.text(
    "UPDATE seat SET lease_until = clock_timestamp() + make_interval(secs => :lease) WHERE uuid = CAST(:uuid AS uuid)"
)
_LEAVE = sa.text("UPDATE seat SET lease_until = clock_timestamp() WHERE uuid = CAST(:uuid AS uuid)")


def _row(seat: Seat) -> dict[str, object]:
    return {
        "uuid": seat.uuid,
        "kind": seat.kind,
        "hostname": seat.hostname,
        "pid": seat.pid,
        "home": seat.home,
        "lease": LEASE_SECONDS,
    }


@writer(Lock.SEAT, inserts=(Lock.SEAT,))
async def take_seat(tx: Transaction, seat: Seat) -> None:
    """Sit down as the daemon of a home, and end the leases of those that sat there before.

    The caller holds the home's lock, so earlier daemons of the same home and host are dead for certain. Said again,
    after an outcome that stayed unknown, it renews the lease.
    """
    keys = await tx.lock(_BEFORE_AND_MINE, hostname=seat.hostname, home=seat.home, uuid=seat.uuid)
    if keys:
        await tx.write(Lock.SEAT, keys, _SUCCEED, {"keys": keys, "uuid": seat.uuid, "lease": LEASE_SECONDS})
    # a row that is there by now is ours, held or just taken by us: it must not be locked after rows that come later
    await tx.insert(Lock.SEAT, _TAKE, _row(seat))


async def register(store: Store, seat: Seat) -> None:
    """Seat a worker, or renew the lease of one that is known.

    One statement on one row: it waits for that row, or for the value of its `uuid`, while it holds nothing.
    """
    await store.single(_REGISTER, _row(seat))


async def beat(store: Store, uuid: str) -> bool:
    """Renew a lease for LEASE_SECONDS. False: there is no such seat."""
    return await store.single(_BEAT, {"uuid": uuid, "lease": LEASE_SECONDS}) == 1


async def leave(store: Store, uuid: str) -> None:
    """End a lease at once, on a clean stop."""
    await store.single(_LEAVE, {"uuid": uuid})
