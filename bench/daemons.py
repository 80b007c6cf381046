"""The same work with one, two and three daemons on one database: throughput, and how long they wait for each other.

The daemons are processes of their own, each the whole composition with an instant worker beside it
(`bench.scheduler_only`). The runs are shared out evenly, as by clients that pick any of them; who executes the tasks
is left to the daemons.

How lock waits are measured: by PostgreSQL itself. With `log_lock_waits` and a `deadlock_timeout` of 1 ms the server
logs each wait that lasted longer, with its duration; shorter ones are not counted, so the percentiles are of the long
ones and rather too high. The other timings here include those checks for deadlocks.

As a program: `python -m bench.daemons DSN PLACE` is one daemon. It prints lines of JSON: ready, then how many runs
it has seen end, whenever that grows, and what it did when its input ends. A line on its input asks for so many runs.
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import trio
from attrs import define, field

from bench.daemon import Failed
from bench.machine import ROOT
from bench.measure import Report, percentile
from bench.scheduler_only import Shapes, open_bench
from bench.server import Server
from scheduler.commands import Commands
from scheduler.store.limits import Limits

DAEMONS = (1, 2, 3)
LIMIT_S = 300.0
PROGRAM = (sys.executable, "-m", "bench.daemons")
_ACQUIRED = re.compile(rb"LOG:  process \d+ acquired .* after ([0-9.]+) ms")


@define(eq=False)
class Member:
    """One daemon, and what it has said."""

    process: subprocess.Popen[bytes]
    log: Path
    said: Queue[dict[str, Any] | None] = field(factory=Queue)
    finished: int = 0

    def __attrs_post_init__(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.put(json.loads(line))
        self.said.put(None)

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """What it says next; None if nothing in that time. Raises Failed when it has ended."""
        try:
            said = self.said.get(timeout=seconds)
        except Empty:
            return None
        if said is None:
            raise Failed(f"a daemon ended: {self.log.read_text()[-2000:]}")
        return said

    def ask(self, runs: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d\n" % runs)
        self.process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Ask it to end; return what it did. Raises Failed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        while True:
            said = self.hear(LIMIT_S)
            if said is None:
                raise Failed("a daemon does not end")
            if "transactions" in said:
                return said


@contextmanager
def _member(dsn: str, place: Path) -> Iterator[Member]:
    place.mkdir()
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [*PROGRAM, dsn, str(place)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
    member = Member(process, place / "log")
    try:
        if member.hear(LIMIT_S) is None:
            raise Failed(f"a daemon was not ready in time: {member.log.read_text()[-2000:]}")
        yield member
    finally:
        process.kill()
        process.wait()


def _work(members: list[Member], runs: int) -> float:
    """Share out so many runs; return the seconds until all have succeeded. Raises Failed."""
    expected = runs + sum(one.finished for one in members)
    share, more = divmod(runs, len(members))
    began = time.monotonic()
    for number, one in enumerate(members):
        one.ask(share + (number < more))
    while sum(one.finished for one in members) < expected:
        if time.monotonic() - began > LIMIT_S:
            raise Failed(f"{runs} runs have not ended after {LIMIT_S:.0f} s")
        for one in members:
            said = one.hear(0.002)
            if said is not None:
                one.finished = said["finished"]
    return time.monotonic() - began


def _waits(log: Path, since: int) -> list[float]:
    """The lock waits in milliseconds that the server has logged behind this position."""
    with log.open("rb") as stream:
        stream.seek(since)
        return [float(found) for found in _ACQUIRED.findall(stream.read())]


def measure(server: Server, place: Path, report: Report, *, quick: bool) -> None:
    """One, two and three daemons, each time on a new database. Raises Failed."""
    runs = 20 if quick else 300
    server_log = place / "home" / "postgres" / "server.log"
    per_s: dict[int, float] = {}
    server.administer("ALTER SYSTEM SET log_lock_waits = on", "SELECT pg_reload_conf()")
    try:
        for daemons in DAEMONS:
            here = place / f"daemons-{daemons}-{time.monotonic_ns()}"
            here.mkdir()
            with server.migrated("daemons") as dsn, ExitStack() as stack:
                members = [stack.enter_context(_member(dsn, here / str(n))) for n in range(daemons)]
                _work(members, 20 * daemons)  # every connection of each has seen every statement afterwards
                since = server_log.stat().st_size
                seconds = _work(members, runs)
                waits = _waits(server_log, since)
                did = [one.end() for one in members]
            per_s[daemons] = 10 * runs / seconds
            sums = {name: sum(one[name] for one in did) for name in did[0]}
            if sums["deadlocks"]:
                raise Failed(f"{sums['deadlocks']} deadlocks with {daemons} daemons")
            report.add(f"daemons_{daemons}", per_s[daemons], seconds=seconds, did=did, waits_of_1_ms=len(waits))
        report.add("daemons_share", 100 * per_s[DAEMONS[-1]] / per_s[1])
        report.add_percentile(
            "daemons_wait_p99",
            waits or [0.0],
            0.99,
            waits=len(waits),
            p50=percentile(waits, 0.5) if waits else 0.0,
            max=max(waits, default=0.0),
            transactions=sums["transactions"],
        )
    finally:
        server.administer("ALTER SYSTEM RESET log_lock_waits", "SELECT pg_reload_conf()")


async def _be_one(dsn: str, place: Path) -> None:
    def say(**what: Any) -> None:
        print(json.dumps(what), flush=True)

    async with open_bench(dsn, place, Shapes.quick(), limits=Limits(deadlock=0.001)) as bench:
        store, finished = bench.daemon.store, bench.finished
        commands = Commands(graphs=bench.daemon.graphs, dispatch=bench.daemon.dispatch)
        say(ready=True)

        async def tell() -> None:
            while True:
                await finished.changed.wait()
                finished.changed = trio.Event()
                say(finished=finished.succeeded)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                for _ in range(int(line)):
                    await commands.trigger(store, dag_id="runs", conf=None, logical_date=None)
            nursery.cancel_scope.cancel()
        say(
            transactions=store.transactions,
            statements=bench.counts.statements,
            rollbacks=bench.counts.rollbacks,
            deadlocks=store.deadlocks,
            finished=finished.succeeded,
        )


if __name__ == "__main__":
    trio.run(partial(_be_one, sys.argv[1], Path(sys.argv[2])))
