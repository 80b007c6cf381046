"""For how long the database has answered, and this daemon has run, without a gap."""

from attrs import define, field

from nurseries.clock import Clock
from scheduler.store.seats import LEASE_SECONDS


@define(kw_only=True, eq=False)
class Steadiness:
    """After a gap of more than a lease nobody may be thought dead: the others could not renew theirs either."""

    clock: Clock
    _since: float | None = field(default=None, init=False)
    _last: float = field(default=0.0, init=False)

    def note(self) -> None:
        """The database has just answered."""
        now = self.clock.monotonic()
        if self._since is None or now - self._last > LEASE_SECONDS:
            self._since = now
        self._last = now

    @property
    def is_long_enough(self) -> bool:
        """Has it answered for one lease, and not stopped since: could everybody who lives renew theirs?"""
        now = self.clock.monotonic()
        return self._since is not None and now - self._last <= LEASE_SECONDS <= now - self._since
