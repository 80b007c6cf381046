"""Who had the processors of the machine while something was measured."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from attrs import define

from tests.database import Server

QUIET = 0.1
"""Cores that others may have had for the machine to count as quiet: somebody always does something."""


@define(kw_only=True)
class Processors:
    """Seconds of processor time between two instants."""

    seconds: float = 0.0
    """Real time."""
    ours: float = 0.0
    """Of this process and its children, and of the server's."""
    busy: float = 0.0
    """Of everybody, this process too; what a hypervisor took away is among it."""
    waiting: float = 0.0
    """Processors had nothing to do but wait for a disk."""

    @property
    def others(self) -> float:
        """Cores that others had, on average."""
        return max(0.0, self.busy - self.ours) / self.seconds

    @property
    def quiet(self) -> bool:
        return self.others <= QUIET

    @property
    def slowdown(self) -> float:
        """How many times longer everything took than on the same machine by ourselves; 1.0 on a quiet one."""
        return 1.0 if self.quiet else max(1.0, (self.busy + self.waiting) / self.ours)


def _now(server: Server) -> Processors:
    all_of_them = psutil.cpu_times()
    idle = all_of_them.idle + getattr(all_of_them, "iowait", 0.0)
    guests = getattr(all_of_them, "guest", 0.0) + getattr(all_of_them, "guest_nice", 0.0)  # they are in `user` too
    postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
    ours = sum(os.times()[:4])
    for one in (postmaster, *postmaster.children(recursive=True)):
        try:
            spent = one.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile, and stands in its parent's account
        ours += spent.user + spent.system
        if one == postmaster:
            ours += spent.children_user + spent.children_system
    return Processors(
        seconds=os.times().elapsed,
        ours=ours,
        busy=sum(all_of_them) - idle - guests,
        waiting=getattr(all_of_them, "iowait", 0.0),
    )


@contextmanager
def processors(server: Server) -> Iterator[Processors]:
    """Who had them while the block ran: filled in at its end."""
    spent = Processors()
    before = _now(server)
    yield spent
    after = _now(server)
    spent.seconds = after.seconds - before.seconds
    spent.ours = after.ours - before.ours
    spent.busy = after.busy - before.busy
    spent.waiting = after.waiting - before.waiting
