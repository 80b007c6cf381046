"""The daemon as a user starts it: a process with a home, a directory of DAG files, signals and a log of facts.

Every wait here is for something that happened: a line of the daemon's log, an answer of its control socket, the
end of a process. The seconds are limits, after which the test fails and shows the log.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any

from attrs import define, field, frozen

from scheduler.control.client import ControlClient, connect_unix
from scheduler.control.protocol import Code, ControlError
from scheduler.home import Home
from tests.database import wheel_bindir

LIMIT_S = 40.0
"""Of one wait. Generous: nothing here is a measurement."""

MARK = "END_TO_END_TEST"
"""A variable of the daemon's environment, by which its processes are known; our prefix is kept for settings."""

PROGRAM = Path(sys.executable).with_name("asyncsched")

living: "list[Daemon]" = []
"""Every daemon that is open, so that a failing test can show what it said."""

Record = dict[str, Any]


@frozen
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@define(eq=False)
class Daemon:
    """One home and one directory of DAG files, and the daemon process that serves them now, if one does."""

    home: Path
    dags: Path
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(factory=dict)
    """Further environment."""
    mark: str = field(factory=lambda: uuid.uuid4().hex)
    records: list[Record] = field(factory=list)
    """Everything said on stderr, by all processes that served this home: facts are those with "fact"."""
    process: subprocess.Popen[str] | None = None
    _heard: threading.Condition = field(factory=threading.Condition)
    _reader: threading.Thread | None = None

    # Life

    def launch(self, *more: str) -> None:
        """Start the process and return at once."""
        assert self.process is None, "one at a time"
        self.process = subprocess.Popen(
            [PROGRAM, "run", self.dags, "--home", self.home, *self.arguments, *more],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._listen, args=(self.process,), daemon=True)
        self._reader.start()

    def start(self, *more: str) -> None:
        """Start the process and wait until it is ready."""
        mark = len(self.records)
        self.launch(*more)
        self.hear("ready: ", since=mark)

    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCSCHED_")}
        return {**ours, MARK: self.mark, **self.settings}

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, number: Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = LIMIT_S) -> int:
        """Wait for the end of the process; return its exit code, negative for a signal."""
        assert self.process is not None
        assert self._reader is not None
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon has not ended within {seconds} s") from None
        if code >= 0:
            self._reader.join(seconds)  # the worker has the same stderr and may outlive a daemon that was killed
        self.process = None
        return code

    def stop(self, number: Signals = SIGTERM, seconds: float = LIMIT_S) -> int:
        self.send(number)
        return self.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, to the daemon alone."""
        assert self.process is not None
        self.process.kill()
        self.wait()

    def processes(self) -> dict[int, str]:
        """The living processes that come from this daemon, whoever their parent is now: pid to command."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                command = _command(entry, self.mark, str(self.home))
                if command is not None:
                    found[int(entry.name)] = command
        return found

    def is_gone(self) -> bool:
        return self.process is None and not self.processes()

    # What it says

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    record = {"message": line.rstrip("\n")}
                with self._heard:
                    self.records.append(record)
                    self._heard.notify_all()

    def hear(self, what: str | Callable[[Record], bool], *, since: int = 0, seconds: float = LIMIT_S) -> Record:
        """Wait for a line of the log: one whose message contains `what`, or for which it is true."""

        def fits(record: Record) -> bool:
            return what in record["message"] if isinstance(what, str) else what(record)

        deadline = time.monotonic() + seconds
        with self._heard:
            while True:
                found = next((record for record in self.records[since:] if fits(record)), None)
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or self._has_fallen_silent():
                    raise AssertionError(f"the daemon did not say {what!r}; its log:\n{self.log()}")
                self._heard.wait(min(left, 0.5))

    def fact(self, kind: str, *, since: int = 0, seconds: float = LIMIT_S, **about: Any) -> dict[str, Any]:
        """Wait for a fact about what is given; return all that it is about."""

        def fits(record: Record) -> bool:
            return record.get("fact") == kind and all(record["about"].get(name) == one for name, one in about.items())

        return dict(self.hear(fits, since=since, seconds=seconds)["about"])

    def hear_of(self, *files: str, since: int = 0) -> None:
        """Wait until each of these files has been loaded, or found broken."""
        for file in files:
            self.hear(partial(_is_about, file), since=since)

    def _has_fallen_silent(self) -> bool:
        return self.process is not None and self.process.poll() is not None and not self._reader_lives()

    def _reader_lives(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def log(self) -> str:
        """What it has said, for people."""
        lines = []
        for record in self.records:
            lines.append(f"{record.get('time', '')[11:23]} {record.get('level', '')}: {record['message']}")
            if "exception" in record:
                lines.append(record["exception"])
        return "\n".join(lines[-300:])

    # What it is asked

    def ask(self, op: str, *, wait_seconds: float = 0.0, **arguments: Any) -> Any:
        """One question over the control socket. Raises ControlError."""
        path = Home(self.home).control_socket
        client = ControlClient(lambda: connect_unix(path, home=self.home), answer_seconds=LIMIT_S)
        with client:
            return client.call(op, wait_seconds=wait_seconds, **arguments)

    def command(self, *words: str, seconds: float = LIMIT_S) -> Ended:
        """Run `asyncsched WORDS` with this home."""
        ended = subprocess.run(
            [PROGRAM, *words, "--home", self.home],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def trigger(self, dag_id: str, **arguments: Any) -> str:
        """Start a run; return DAG/RUN."""
        return f"{dag_id}/{self.ask('runs.trigger', dag_id=dag_id, **arguments)['run_id']}"

    def state(self, run: str, *, seconds: float = LIMIT_S) -> str:
        """Wait for the end of a run; return its state. A daemon whose database is away just now is asked again."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                seen = self.ask("runs.wait", wait_seconds=seconds, run=run, seconds=min(seconds, 60.0))
                break
            except ControlError as error:
                if error.code is not Code.UNREACHABLE or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        assert seen["state"] in ("success", "failed"), f"{run} has not ended: {self.ask('tasks.list', run=run)}"
        return str(seen["state"])

    def tasks(self, run: str) -> dict[str, Record]:
        """The tasks of a run by id, as `tasks list` has them."""
        return {each["task_id"]: each for each in self.ask("tasks.list", run=run)}

    def task(self, run: str, task_id: str) -> Record:
        """One task with its attempts and results."""
        (found,) = self.ask("tasks.show", task=f"{run}/{task_id}")
        return dict(found)

    def result(self, run: str, task_id: str) -> Any:
        return self.task(run, task_id)["results"]["return_value"]

    def put(self, name: str, text: str) -> Path:
        """Write a DAG file, by rename as editors do."""
        path = self.dags / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.scratch")
        scratch.write_text(text, encoding="utf-8")
        return scratch.replace(path)

    # Its database

    def sql(self, statement: str) -> list[list[str]]:
        """Ask the embedded database directly."""
        return psql(["-h", str(Home(self.home).run / "postgres"), "-U", "asyncsched", "-d", "asyncsched"], statement)

    @property
    def postmaster(self) -> int:
        """The pid of the embedded server."""
        (noted,) = self.home.glob("postgres/*/postmaster.pid")
        return int(noted.read_text().splitlines()[0])

    @property
    def worker(self) -> int:
        (worker,) = self.ask("status")["workers"]
        return int(worker["pid"])


def psql(options: list[str], statement: str) -> list[list[str]]:
    """The rows that a statement returns."""
    command = [str(wheel_bindir() / "psql"), *options, "-XAtq", "-F", "\t", "-c", statement]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S)
    return [line.split("\t") for line in ended.stdout.splitlines()]


def _is_about(file: str, record: Record) -> bool:
    return record.get("fact") in ("file loaded", "file broken") and record["about"]["file"] == file


def _command(entry: Path, mark: str, home: str) -> str | None:
    """The command of a process that is ours and lives; PostgreSQL is known by its directory, the rest by the mark."""
    try:
        if _is_dead(entry):
            return None
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        ours = f"{MARK}={mark}".encode() in (entry / "environ").read_bytes()
        ours = ours or os.readlink(entry / "cwd").startswith(home + "/") or f"={home}" in command
        return command if ours and "asyncsched trigger" not in command else None
    except OSError:
        return None  # it is gone, or somebody else's


def _is_dead(entry: Path) -> bool:
    state = re.search(rb"^State:\s*(\w)", (entry / "status").read_bytes(), re.MULTILINE)
    return state is None or state[1] in b"ZX"


def until(what: str, holds: Callable[[], Any], *, seconds: float = LIMIT_S) -> Any:
    """Ask again and again until the answer is true; return it. For facts that nobody announces."""
    deadline = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return answer


@contextmanager
def opened(
    directory: Path,
    files: Mapping[str, str],
    *arguments: str,
    config: str = "",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """A daemon's home and DAG files below `directory`; whatever is still running at the end is ended and judged.

    `config` is TOML, by default nothing but a quick end for tasks that ignore SIGTERM.
    """
    dags = directory / "dags"
    dags.mkdir(parents=True)
    (directory / "config.toml").write_text(config or "[worker]\nkill_grace_s = 1\n")
    words = ("--config", str(directory / "config.toml"), *arguments)
    daemon = Daemon(directory / "home", dags, words, settings or {})
    for name, text in files.items():
        daemon.put(name, text)
    living.append(daemon)
    try:
        yield daemon
        if daemon.process is not None:
            code = daemon.stop()
            assert code == 0, f"ended with {code}; its log:\n{daemon.log()}"
        until("all processes of the daemon are gone", daemon.is_gone, seconds=15)
        assert not (bugs := [one for one in daemon.records if one.get("level") == "critical"]), bugs
    finally:
        living.remove(daemon)
        _end(daemon)
        (directory / "daemon.log").write_text(daemon.log())


def _end(daemon: Daemon) -> None:
    """Leave nothing behind, whatever the test did."""
    if daemon.process is not None:
        daemon.process.kill()
        daemon.wait()
    for pid in daemon.processes():
        try:
            os.kill(pid, SIGKILL)
        except ProcessLookupError:
            continue


@contextmanager
def running(directory: Path, files: Mapping[str, str], *arguments: str, **options: Any) -> Iterator[Daemon]:
    """A daemon that is ready and has seen all its files."""
    with opened(directory, files, *arguments, **options) as daemon:
        daemon.start()
        daemon.hear_of(*files)
        yield daemon
