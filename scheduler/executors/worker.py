"""The worker: a process that runs the attempts a daemon on this machine hands to it.

The daemon starts one by itself. Another may be started beside it (`asyncsched worker`, a systemd unit): it calls on
the daemon's socket, offers its slots, and runs what it is given.
"""

import argparse
import logging
import os
import resource
import signal
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

import trio
from attrs import define, field, frozen

from nurseries.lifeline import wait_for_parent_death, watch_lifeline
from scheduler.executors import orphans, protocol
from scheduler.executors.attempts import Attempt, Intent, Limits
from scheduler.executors.link import Link
from scheduler.executors.parent import SourceKey
from scheduler.executors.parents import ParentPool
from scheduler.executors.readiness import Readiness
from scheduler.executors.reuse import ReusePool
from scheduler.executors.reuse_attempt import SharedAttempt
from scheduler.executors.reuse_lane import Terms
from scheduler.executors.spool import Spool
from scheduler.model import Isolation, Outcome, OutcomeKind, Workload

log = logging.getLogger(__name__)

_ACK_SECONDS = 5.0
"""How long an ending worker waits for acknowledgements before it writes its spool."""
_FAREWELL_SECONDS = 2.0
_DESCRIPTORS = 65536


@frozen(kw_only=True)
class Settings:
    """What a worker is told at its start. Times in seconds."""

    socket_path: Path
    spool: Path
    slots: int
    warm_parents: int
    log_bytes: int
    result_bytes: int
    kill_grace: float
    orphan_grace: float
    shutdown_grace: float
    import_timeout: float
    reuse: Terms


@define(eq=False)
class Worker:
    """Attempts on one side, the daemon on the other; and when to leave."""

    settings: Settings
    has_parent: bool = False
    worker_id: str = field(factory=lambda: str(uuid.uuid4()))
    _attempts: dict[str, Attempt | SharedAttempt] = field(factory=dict)
    _nursery: trio.Nursery | None = None
    _changed: trio.Event = field(factory=trio.Event)
    _parent_gone: bool = False
    _stop_at: float | None = None
    _idle_since: float | None = None
    _leaving: bool = False
    """Everything has been told to stop; nothing new begins."""
    limits: Limits = field(init=False)
    link: Link = field(init=False)
    readiness: Readiness = field(factory=Readiness)
    pool: ParentPool = field(init=False)
    shared: ReusePool = field(init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        self.link = Link(
            socket_path=settings.socket_path,
            spool=Spool(settings.spool),
            worker_id=self.worker_id,
            slots=settings.slots,
            running=self._attempts.keys,
            hear=self._hear,
            on_change=self._poke,
        )
        self.pool = ParentPool(
            limit=settings.warm_parents,
            kill_grace=settings.kill_grace,
            import_timeout=settings.import_timeout,
            readiness=self.readiness,
        )
        self.limits = Limits(
            log_bytes=settings.log_bytes,
            result_bytes=settings.result_bytes,
            kill_grace=settings.kill_grace,
        )
        self.shared = ReusePool(
            desk=self.link,
            limits=self.limits,
            terms=settings.reuse,
            take=self.pool.take,
            report=self._shared_ended,
            refused=self._shared_refused,
        )

    async def run(self) -> None:
        """Serve until told to leave, or until no daemon has been there for too long."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.readiness.run)
            await nursery.start(self.pool.run)
            await nursery.start(self.shared.run)
            nursery.start_soon(self._watch_signals)
            nursery.start_soon(self._beat)
            if self.has_parent:
                nursery.start_soon(self._watch_parent)
            self.link.collect_spool()
            nursery.start_soon(self.link.run)
            await self._until_time_to_leave()
            self.link.write_spool()
            await self._end_children()
            nursery.cancel_scope.cancel()

    # ---- what the daemon says

    def _hear(self, message: protocol.FromDaemon) -> None:
        match message:
            case protocol.Submit():
                for workload in message.workloads:
                    self._begin(workload)
            case protocol.Answers():
                for answer in message.answers:
                    if (attempt := self._attempts.get(answer.token)) is not None:
                        attempt.answer(answer)
            case protocol.Cancel():
                if (attempt := self._attempts.get(message.token)) is not None:
                    text = f"cancelled: {message.reason}" if message.reason else "cancelled"
                    attempt.stop(Intent(kind=OutcomeKind.FAILED, reason="cancelled", message=text))
            case protocol.Warm():
                self.pool.warm([SourceKey(*file) for file in message.files])
            case protocol.Drain():
                if self.has_parent:  # otherwise a service manager ends us, and the next daemon finds us here
                    self._drain(message.grace_seconds)
            case protocol.Ack():
                raise AssertionError("the link keeps these")

    def _begin(self, workload: Workload) -> None:
        if workload.token in self._attempts:
            return
        if workload.inputs is not None and self.link.draining:
            why = "the worker takes no new work"
            self.link.report([Outcome(token=workload.token, kind=OutcomeKind.LOST, reason="shutdown", message=why)])
            return
        if self._leaving:
            return  # it is not started, and will be found as never started
        if workload.isolation is Isolation.REUSE:
            self._begin_shared(workload)
            return
        assert self._nursery is not None
        key = SourceKey(workload.file, workload.source_path, workload.source_hash)
        token = workload.token
        attempt = Attempt(
            workload=workload,
            limits=self.limits,
            desk=self.link,
            take=lambda: self.pool.take(key),
            end=lambda outcome: self._end(token, outcome),
            spawn=self._nursery.start_soon,
        )
        self._attempts[token] = attempt
        attempt.set_off()
        self._nursery.start_soon(attempt.run)

    def _end(self, token: str, outcome: Outcome | None) -> None:
        del self._attempts[token]
        if outcome is None:
            self.link.gone(token)
        else:
            self.link.report([outcome])

    def _begin_shared(self, workload: Workload) -> None:
        attempt = self.shared.accept(workload)
        if not attempt.is_over:  # it may have found no room at all
            self._attempts[workload.token] = attempt

    def _shared_ended(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self._attempts.pop(outcome.token, None)
        self.link.report(outcomes)

    def _shared_refused(self, token: str) -> None:
        del self._attempts[token]
        self.link.gone(token)

    # ---- when to leave

    def _poke(self) -> None:
        self._changed.set()

    def _drain(self, grace: float) -> None:
        stop_at = trio.current_time() + grace
        self._stop_at = stop_at if self._stop_at is None else min(stop_at, self._stop_at)
        if not self.link.draining:
            self.link.drain()
        self._poke()

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for signum in signals:
                log.info("%s: leaving", signal.Signals(signum).name)
                self._drain(0 if self.link.draining else self.settings.shutdown_grace)

    async def _watch_parent(self) -> None:
        await wait_for_parent_death()
        self._parent_gone = True
        if not self.link.draining:
            self.link.drain()  # a new daemon has a worker of its own
        self._poke()

    async def _beat(self) -> None:
        while True:
            await trio.sleep(protocol.HEARTBEAT_SECONDS)
            self.link.beat()
            self.link.collect_spool()
            self.pool.tidy()

    async def _until_time_to_leave(self) -> None:
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            if self._may_leave(now):
                return
            if not self._leaving and (why := self._why_stop(now)):
                self._stop_all(why)
                continue
            with trio.move_on_at(self._next_deadline(now)):
                await self._changed.wait()

    def _why_stop(self, now: float) -> str:
        if self._stop_at is not None and now >= self._stop_at:
            return "the worker is being stopped"
        alone = self.link.lost_at
        if alone is not None and now >= alone + self.settings.orphan_grace and self._has_reason_to_give_up():
            return f"no daemon came back within {self.settings.orphan_grace:g} s"
        return ""

    def _has_reason_to_give_up(self) -> bool:
        """Without work, a worker of its own standing waits for its daemon as long as it takes."""
        return bool(self._attempts) or self.link.draining or self.has_parent

    def _stop_all(self, why: str) -> None:
        self._leaving = True
        self.link.draining = True
        log.info("stopping %d attempts: %s", len(self._attempts), why)
        for attempt in list(self._attempts.values()):
            attempt.stop(Intent(kind=OutcomeKind.LOST, reason="shutdown", message=why))

    def _may_leave(self, now: float) -> bool:
        if self._attempts or not (self._leaving or self.link.draining):
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
        if self.link.unacknowledged == 0:
            return True
        if self.link.lost_at is not None and (self._leaving or self._parent_gone):
            return True  # nobody to tell: the spool will
        return now >= self._idle_since + _ACK_SECONDS and self._stop_at is not None

    def _next_deadline(self, now: float) -> float:
        deadlines = [float("inf")]
        if self._stop_at is not None and not self._leaving:
            deadlines.append(self._stop_at)
        if self.link.lost_at is not None and not self._leaving:
            deadlines.append(self.link.lost_at + self.settings.orphan_grace)
        if self._idle_since is not None:
            deadlines.append(self._idle_since + _ACK_SECONDS)
        return min((at for at in deadlines if at > now), default=float("inf"))

    async def _end_children(self) -> None:
        """Zygote and warm parents end when we hang up; what does not is killed."""
        self.pool.hang_up()
        with trio.move_on_after(_FAREWELL_SECONDS), trio.open_signal_receiver(signal.SIGCHLD) as signals:
            while self.pool.reap_now():
                await anext(signals)
        for child in orphans.children():
            log.warning("process %d does not end and is killed", child)
            os.kill(child, signal.SIGKILL)


def main(argv: list[str] | None = None) -> int:
    """Run a worker until it leaves; the exit status."""
    settings = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s worker[%(process)d]: %(message)s")
    os.umask(0o027)
    _raise_descriptor_limit()
    orphans.become_subreaper()
    has_parent = watch_lifeline() is not None
    trio.run(_run, settings, has_parent)
    return 0


async def _run(settings: Settings, has_parent: bool) -> None:
    await Worker(settings, has_parent=has_parent).run()


def _raise_descriptor_limit() -> None:
    """Each attempt takes three descriptors here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def parse(argv: Iterable[str]) -> Settings:
    """Read the command line; exits with status 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="asyncsched worker",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "SIGTERM: take no new work, let running tasks finish within the shutdown grace, then stop them.\n"
            "A second SIGTERM: stop them now. Without a daemon, tasks go on for the orphan grace; a daemon that\n"
            "comes back in that time gets their outcomes, and otherwise finds them in the spool."
        ),
    )
    add = parser.add_argument
    add("--socket", type=Path, required=True, metavar="PATH", help="the daemon's worker socket")
    add("--spool", type=Path, required=True, metavar="DIR", help="where unreported outcomes are kept")
    add("--slots", type=_positive, required=True, metavar="N", help="attempts at the same time")
    add("--warm-parents", type=_positive, default=8, metavar="N", help="DAG files kept imported (default 8)")
    add("--log-limit-mb", type=_positive, default=100, metavar="MB", help="of one attempt (default 100)")
    add("--result-limit-kb", type=_frameable, default=1024, metavar="KB", help="of one result (default 1024)")
    add("--kill-grace", type=_seconds, default=10.0, metavar="S", help="SIGTERM to SIGKILL (default 10)")
    add("--orphan-grace", type=_seconds, default=60.0, metavar="S", help="without a daemon (default 60)")
    add("--shutdown-grace", type=_seconds, default=30.0, metavar="S", help="after SIGTERM (default 30)")
    add("--reuse-attempts", type=_positive, default=1000, metavar="N", help="in one shared process (default 1000)")
    add("--reuse-growth-mb", type=_positive, default=256, metavar="MB", help="of a shared process (default 256)")
    add("--reuse-idle", type=_seconds, default=30.0, metavar="S", help="a shared process without work (default 30)")
    add("--import-timeout", type=_seconds, default=60.0, metavar="S", help="of a DAG file (default 60)")
    args = parser.parse_args(list(argv))
    return Settings(
        socket_path=args.socket.absolute(),
        spool=args.spool.absolute(),
        slots=args.slots,
        warm_parents=args.warm_parents,
        log_bytes=args.log_limit_mb * 1024 * 1024,
        result_bytes=args.result_limit_kb * 1024,
        kill_grace=args.kill_grace,
        orphan_grace=args.orphan_grace,
        shutdown_grace=args.shutdown_grace,
        import_timeout=args.import_timeout,
        reuse=Terms(
            attempts=args.reuse_attempts,
            growth_bytes=args.reuse_growth_mb * 1024 * 1024,
            idle_seconds=args.reuse_idle,
        ),
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _frameable(text: str) -> int:
    """Escaped, as text inside JSON, a result takes up to twice its size, and must fit into one frame."""
    value = _positive(text)
    most = protocol.FRAME_LIMIT // 2 // 1024 - 1024
    if value > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be seconds, 0 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
