"""`python -m bench`: measure, print one table, write JSON and a plot."""

import argparse
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict
from rich.console import Console

from bench import attempt, ceiling, daemons, end_to_end, machine, memory, plot, scheduler_only, table, wide
from bench.daemon import Failed
from bench.growth import measures as growth
from bench.growth.sizes import NAMES as SIZES
from bench.growth.sizes import Sizes
from bench.measure import Report
from bench.peers import compare as peers
from bench.peers import plot as peers_plot
from bench.peers import show as peers_show
from bench.peers.shapes import Sizes as PeerSizes
from bench.server import Server, running_server

STARTUP, WIDE, ATTEMPT, GROWTH, PEERS = "startup", "wide", "attempt", "growth", "peers"
CEILING, SCHEDULER, DAEMONS, MEMORY = "ceiling", "scheduler", "daemons", "memory"
ON_A_SERVER = (CEILING, SCHEDULER, DAEMONS, MEMORY)
NAMES = (STARTUP, *end_to_end.MEASURES, WIDE, ATTEMPT, *ON_A_SERVER, GROWTH, *growth.MEASURES, PEERS)
RESULTS = Path(__file__).parent / "results"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure asyncsched; see bench/README.md.")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--without", action="append", choices=NAMES, metavar="NAME", default=[], help="all but this")
    parser.add_argument(
        "--peer", action="append", choices=tuple(peers.load()), metavar="NAME", default=[], help="only this peer"
    )
    parser.add_argument(
        "--peer-size", action="append", metavar="NAME=N", default=[], help="of what peers are measured with"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="repetitions (default 3)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything works")
    parser.add_argument(
        "--instances", type=int, default=memory.INSTANCES, metavar="N", help="for memory; the goal is for 1000000"
    )
    parser.add_argument(
        "--json", type=Path, default=RESULTS / "latest.local.json", metavar="PATH", help="result; .svg beside it"
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where homes and databases are made (default: a temporary one)"
    )
    parser.add_argument(
        "--size", action="append", default=[], metavar="NAME=N", help=f"of growth: one of {', '.join(SIZES)}"
    )
    chosen = parser.parse_args(given)
    if chosen.repeat < 1:
        parser.error("--repeat must be at least 1")
    chosen.sizes = Sizes.quick() if chosen.quick else Sizes()
    chosen.peer_sizes = PeerSizes.quick() if chosen.quick else PeerSizes()
    try:
        for text in chosen.size:
            chosen.sizes.set(text)
        for text in chosen.peer_size:
            chosen.peer_sizes = chosen.peer_sizes.with_size(text)
    except ValueError as error:
        parser.error(str(error))
    return chosen


def default_directory() -> Path:
    """The temporary directory, unless it is in memory: commits must reach a disk."""
    directory = Path(tempfile.gettempdir())
    if machine.file_system(directory) == "tmpfs" and Path("/var/tmp").is_dir():
        return Path("/var/tmp")
    return directory


@contextmanager
def scratch(below: Path) -> Iterator[Path]:
    """A new directory, which PostgreSQL's user may enter; removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=below))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _with_growth(names: Iterable[str]) -> set[str]:
    """The names, and for growth also its parts."""
    chosen = set(names)
    return chosen | growth.MEASURES.keys() if GROWTH in chosen else chosen


class Session:
    """One invocation: what is measured, where, and what came of it."""

    def __init__(self, chosen: argparse.Namespace, console: Console) -> None:
        self.wanted = _with_growth(chosen.only or NAMES) - _with_growth(chosen.without)
        self.quick: bool = chosen.quick
        self.instances: int = chosen.instances
        self.repeat: int = chosen.repeat
        self.sizes: Sizes = chosen.sizes
        self.directory: Path = chosen.directory or default_directory()
        self.report = Report()
        self.machine = machine.describe(self.directory)
        self.settings: dict[str, Any] = {"repeat": chosen.repeat, "quick": chosen.quick}
        self.console = console
        self.peers = peers.Comparison.of(
            lambda: scratch(self.directory), console, quick=chosen.quick, sizes=chosen.peer_sizes, only=chosen.peer
        )

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Do one piece; what goes wrong is shown at the end, and the rest is measured all the same."""
        self.console.print(f"measuring: {what}", style="dim")
        try:
            work()
        except Failed as error:
            self.report.failures.append(f"{what}: {error}")
        except Exception as error:  # the other figures are worth having
            self.report.failures.append(f"{what}: {''.join(traceback.format_exception(error))}")

    def from_outside(self) -> None:
        """One repetition of everything that needs a daemon."""
        wanted = [name for name in end_to_end.MEASURES if name in self.wanted]
        with_startup = STARTUP in self.wanted
        if not wanted and not with_startup:
            return
        sizes = end_to_end.Sizes.quick() if self.quick else end_to_end.Sizes()

        def work() -> None:
            with (
                scratch(self.directory) as place,
                end_to_end.world(place, sizes, self.report, with_startup=with_startup) as world,
            ):
                for name in wanted:
                    self.attempt(name, lambda name=name: end_to_end.MEASURES[name](world))  # type: ignore[misc]

        self.attempt(STARTUP if with_startup else "a daemon", work)

    def without_limits(self) -> None:
        """One repetition of what needs a daemon with other settings."""
        if WIDE in self.wanted:

            def work() -> None:
                with scratch(self.directory) as place:
                    wide.measure(place, self.report, quick=self.quick)

            self.attempt(WIDE, work)

    def without_a_database(self) -> None:
        """One repetition of what needs a worker only."""
        if ATTEMPT in self.wanted:

            def work() -> None:
                with scratch(self.directory) as place:
                    attempt.measure(place, self.report, quick=self.quick)

            self.attempt(ATTEMPT, work)

    def on_a_server(self) -> None:
        """One repetition of what needs PostgreSQL only: the ceiling first, then the scheduler beside it."""
        if not self.wanted & set(ON_A_SERVER):
            return

        def work() -> None:
            with scratch(self.directory) as place, running_server(place) as server:
                self.describe(server)
                if CEILING in self.wanted:
                    self.attempt(CEILING, lambda: ceiling.measure(server, self.report, quick=self.quick))
                if SCHEDULER in self.wanted:
                    self.attempt(
                        SCHEDULER, lambda: scheduler_only.measure(server, place, self.report, quick=self.quick)
                    )
                if DAEMONS in self.wanted:
                    self.attempt(DAEMONS, lambda: daemons.measure(server, place, self.report, quick=self.quick))
                if MEMORY in self.wanted:
                    self.attempt(MEMORY, lambda: memory.measure(server, place, self.report, instances=self.instances))

        self.attempt("a server", work)

    def growth(self) -> None:
        """Everything about growth, once in a session, with as many rounds as there are repetitions."""
        wanted = [name for name in growth.MEASURES if name in self.wanted]
        self.settings["growth"] = asdict(self.sizes)

        def work(name: str) -> None:
            with scratch(self.directory) as place, running_server(place) as server:
                self.describe(server)
                growth.MEASURES[name](growth.Ground(server, place, self.sizes, self.repeat, self.report))

        for name in wanted:
            self.attempt(f"growth: {name}", partial(work, name))

    def beside_peers(self, number: int) -> None:
        """One repetition of ours and the others in turn; before the first, the others are installed."""
        if PEERS not in self.wanted:
            return
        if number == 1:
            self.settings["peers"] = asdict(self.peers.sizes)
            self.peers.prepare()
        self.peers.repetition(number)

    def look_at_server(self) -> None:
        """Start a server once only to know what is measured, if nothing else will need one."""
        if not self.wanted & {*ON_A_SERVER, *growth.MEASURES}:

            def work() -> None:
                with scratch(self.directory) as place, running_server(place) as server:
                    self.describe(server)

            self.attempt("PostgreSQL's settings", work)

    def describe(self, server: Server) -> None:
        """Note the server's version and settings: the daemon gives its own the same."""
        found = server.settings()
        self.machine["postgresql"] = found.pop("server_version")
        self.settings["postgresql"] = found

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "settings": self.settings,
            "measures": [one.as_json() for one in self.report.ordered()],
            "peers": self.peers.board.as_json(),
            "failures": self.report.failures,
        }


def main(given: list[str] | None = None) -> int:
    chosen = arguments(given)
    console = Console(stderr=True, highlight=False)
    session = Session(chosen, console)
    session.look_at_server()
    for number in range(1, chosen.repeat + 1):
        console.print(f"repetition {number} of {chosen.repeat}", style="bold")
        session.on_a_server()
        session.from_outside()
        session.without_limits()
        session.without_a_database()
        session.beside_peers(number)
    session.growth()
    output = Console(width=None if sys.stdout.isatty() else 140)
    table.show(session.report, session.machine, session.settings, console=output)
    peers_show.show(session.peers.board, session.peers.sizes, output)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(session.as_json(), indent=1) + "\n")
    chosen.json.with_suffix(".svg").write_text(plot.draw(session.report, session.machine))
    console.print(f"written: {chosen.json} and {chosen.json.with_suffix('.svg').name}", style="dim")
    if session.peers.board.sides:
        drawing = chosen.json.with_suffix(".peers.svg")
        drawing.write_text(peers_plot.draw(session.peers.board, session.machine))
        console.print(f"written: {drawing}", style="dim")
    return 1 if session.report.failures or session.peers.ours_failed() else 0


if __name__ == "__main__":
    sys.exit(main())
