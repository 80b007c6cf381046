"""Ours, asked in the same way as the peers: a daemon as users start it, with its defaults."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define

from bench import processes
from bench.daemon import Daemon, Failed, wait_for_success
from bench.peers.children import PROGRAMS
from bench.peers.programs import dags
from bench.peers.shapes import Sizes
from bench.peers.stamps import Stamps
from scheduler.control.client import ControlClient
from scheduler.home import Home


def dag_file(imports: str, path: Path, sizes: Sizes) -> str:
    """The shapes as one file, stamps included."""
    source = (PROGRAMS / "stamps.py").read_text().partition('"""\n\n')[2]
    return dags.SHAPES.format(imports=imports, stamps=source, path=str(path), chain=sizes.chain, fan=sizes.fan)


@define
class Ours:
    daemon: Daemon
    client: ControlClient
    stamps: Stamps

    def trigger(self, dag_id: str) -> str:
        return str(self.client.call("runs.trigger", dag_id=dag_id)["run_id"])

    def wait(self, dag_id: str, run: str, limit_s: float) -> None:
        wait_for_success(self.client, dag_id, run, limit_s=limit_s)

    def check(self) -> None:
        process = self.daemon.process
        if process is None or process.poll() is not None:
            raise Failed(f"the daemon has ended: {self.daemon.log.read_text()[-1000:]}")

    def pids(self) -> list[int]:
        return processes.tree(self.daemon.pid)


@contextmanager
def running(place: Path, sizes: Sizes) -> Iterator[Ours]:
    """A daemon on a new home in `place`. Raises Failed."""
    stamps = place / "stamps"
    (place / "dags").mkdir()
    (place / "dags" / "shapes.py").write_text(dag_file("from scheduler import dag, task", stamps, sizes))
    daemon = Daemon(home=Home(place / "home"), dags_dir=place / "dags", scratch=place)
    try:
        daemon.start()
        daemon.wait_for_dags(["one", "chain", "fan", "runs"])
        with daemon.client() as client:
            yield Ours(daemon, client, Stamps(stamps))
        daemon.stop()
    finally:
        daemon.end()
