"""All systems in turn, in the other direction in every second repetition."""

import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from attrs import define, field, frozen
from rich.console import Console

from bench import scheduler_only
from bench.daemon import Failed
from bench.measure import Report
from bench.peers import airflow, ours, prefect
from bench.peers.board import DAGS, JOBS, Board, Side
from bench.peers.install import cache_directory, environment
from bench.peers.jobs import QUEUES, Trial
from bench.peers.shapes import Running, Session, Sizes
from bench.peers.versions import Pin, load
from bench.server import running_server

Place = Callable[[], AbstractContextManager[Path]]
"""Makes a new directory, which is removed at the end of the block."""


@frozen(kw_only=True)
class Contender:
    """One system, or one configuration of it, and how it is asked."""

    key: str
    group: str
    title: str
    peer: str | None
    """Its name in versions.toml; None: ours."""
    what: str
    measure: Callable[[Path, Path, Side, Sizes], None]
    """From a new directory and the peer's environment (for ours: the directory again) to samples. Raises Failed."""


def _our_dags(place: Path, _home: Path, side: Side, sizes: Sizes) -> None:
    began = time.monotonic()
    with ours.running(place, sizes) as running:
        Session(running, sizes, side.report, began, sizes.our_runs).all()


def _peer_dags(
    opened: Callable[..., AbstractContextManager[Running]], place: Path, home: Path, side: Side, sizes: Sizes
) -> None:
    began = time.monotonic()
    with running_server(place) as server, opened(place, sizes, home=home, server=server) as running:
        Session(running, sizes, side.report, began, sizes.runs).all()


def _our_jobs(quick: bool, place: Path, _home: Path, side: Side, _sizes: Sizes) -> None:
    report = Report()
    with running_server(place) as server:
        scheduler_only.measure(server, place, report, quick=quick, shapes=("fan", "runs"))
    for shape in ("fan", "runs"):
        for value in report.measures[f"scheduler_{shape}"].samples:
            side.report.add(shape, value)


def _peer_jobs(queue: str, place: Path, home: Path, side: Side, sizes: Sizes) -> None:
    with running_server(place) as server:
        Trial(QUEUES[queue], home, place, server, sizes, side.report).all()


def contenders(pins: Mapping[str, Pin], *, quick: bool) -> list[Contender]:
    """Everybody, ours first in each group."""

    def dags(key: str, title: str, peer: str | None, what: str, measure: Callable[..., None]) -> Contender:
        return Contender(key=key, group=DAGS, title=title, peer=peer, what=what, measure=measure)

    found = [
        dags("asyncsched", "asyncsched", None, "its defaults, tasks in processes of their own", _our_dags),
        dags(
            "airflow",
            "Airflow",
            "airflow",
            "LocalExecutor, defaults",
            partial(_peer_dags, partial(airflow.running, tuning=airflow.DEFAULTS)),
        ),
        dags(
            "airflow_tuned",
            "Airflow tuned",
            "airflow",
            "LocalExecutor; " + _told(airflow.TUNED, "AIRFLOW__"),
            partial(_peer_dags, partial(airflow.running, tuning=airflow.TUNED)),
        ),
        dags(
            "prefect",
            "Prefect",
            "prefect",
            "served flows, defaults: polls every 10 s, 5 processes; tasks run inside the flow's process",
            partial(_peer_dags, partial(prefect.running, tuning=prefect.DEFAULTS)),
        ),
        dags(
            "prefect_tuned",
            "Prefect tuned",
            "prefect",
            "served flows; " + _told(prefect.TUNED, "PREFECT_"),
            partial(_peer_dags, partial(prefect.running, tuning=prefect.TUNED)),
        ),
        Contender(
            key="asyncsched_scheduler",
            group=JOBS,
            title="asyncsched, scheduler only",
            peer=None,
            what="DAGs; two writes of a task, its start and its end; a worker process that answers at once",
            measure=partial(_our_jobs, quick),
        ),
    ]
    for name, queue in QUEUES.items():
        found.append(
            Contender(
                key=name,
                group=JOBS,
                title=pins[name].title,
                peer=name,
                what=f"one worker; defaults / tuned: {queue.what}",
                measure=partial(_peer_jobs, name),
            )
        )
    return found


def _told(settings: Mapping[str, str], prefix: str) -> str:
    return ", ".join(f"{name.removeprefix(prefix).lower()}={value}" for name, value in settings.items())


@define
class Comparison:
    """Everything that is compared in one invocation of the bench."""

    place: Place
    sizes: Sizes
    console: Console
    contenders: list[Contender]
    pins: Mapping[str, Pin]
    board: Board = field(factory=Board)
    homes: dict[str, Path] = field(factory=dict)
    """Environments, by the name of the peer."""

    @classmethod
    def of(cls, place: Place, console: Console, *, quick: bool, sizes: Sizes, only: Collection[str]) -> "Comparison":
        """`only`: these peers, by their names in versions.toml, and ours; all if empty. Raises BadVersions."""
        pins = load()
        chosen = [one for one in contenders(pins, quick=quick) if not only or one.peer is None or one.peer in only]
        groups = {one.group for one in chosen if one.peer is not None}
        return cls(place, sizes, console, [one for one in chosen if one.group in groups], pins)

    def prepare(self) -> None:
        """Install what is not there yet. What cannot be installed keeps its line, with the reason."""
        reasons: dict[str, str] = {}
        for one in self.contenders:
            pin = self.pins[one.peer] if one.peer else None
            side = self.board.add(Side(key=one.key, title=one.title, group=one.group, ours=one.peer is None))
            side.what = f"{pin.version}; {one.what}" if pin else one.what
            if pin is None:
                continue
            side.packages = dict(line.split("==", 1) for line in (*pin.requirements, *pin.locked))
            if pin.name not in self.homes and pin.name not in reasons:
                self.console.print(f"environment: {pin.name} {pin.version}", style="dim")
                try:
                    self.homes[pin.name] = environment(pin, cache_directory())
                except (Failed, OSError) as error:
                    reasons[pin.name] = str(error)
            side.missing = reasons.get(pin.name)

    def ours_failed(self) -> bool:
        """Whether something of ours could not be measured: that is a fault, a peer that is missing is none."""
        ours = [self.board.sides[one.key] for one in self.contenders if one.peer is None and self.board.sides]
        return any(side.report.failures for side in ours)

    def repetition(self, number: int) -> None:
        """Everybody once; whoever was last in one repetition is first in the next."""
        for one in self.contenders if number % 2 else reversed(self.contenders):
            side = self.board.sides[one.key]
            if side.missing is not None:
                continue
            self.console.print(f"measuring: {one.group} of {one.title}", style="dim")
            with self.place() as place:
                try:
                    one.measure(place, self.homes[one.peer] if one.peer else place, side, self.sizes)
                except Failed as error:
                    side.report.failures.append(str(error))
                except Exception as error:  # the others are worth having
                    side.report.failures.append("".join(traceback.format_exception(error))[-1500:])
