"""As whom the server runs. PostgreSQL refuses to be root; everybody else runs it as himself."""

import os
import pwd

from attrs import frozen

from scheduler.postgres.errors import PostgresError

# In this order: our own, the distribution's, the one that owns nothing.
_CANDIDATES = ("asyncsched", "postgres", "nobody")


@frozen(kw_only=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int

    @property
    def is_us(self) -> bool:
        """Whether this process already is that user."""
        return self.uid == os.geteuid()


def own_account() -> Account:
    """Return the user this process is. Raises PostgresError when the uid has no name (peer needs one)."""
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise PostgresError(
            f"uid {uid} has no name on this machine, and PostgreSQL asks for one: add a line for it to "
            "/etc/passwd, run as another user, or bring your own server with --database"
        ) from None
    return Account(name=entry.pw_name, uid=uid, gid=os.getegid())


def server_account(data_owner: int | None) -> Account:
    """Return the user to run the server as.

    `data_owner` is the uid that owns an existing data directory; it stays with it for life. Raises
    PostgresError when this machine has nobody suitable.
    """
    if os.geteuid() != 0:
        return own_account()
    if data_owner:
        try:
            entry = pwd.getpwuid(data_owner)
        except KeyError:
            raise PostgresError(
                f"the PostgreSQL files belong to uid {data_owner}, who has no name on this machine: "
                "add the user again, or change the owner of the files"
            ) from None
        return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise PostgresError(
        "PostgreSQL does not run as root, and this machine has no user "
        f"{', '.join(_CANDIDATES[:-1])} or {_CANDIDATES[-1]}: make one of them, or run as another user"
    )
