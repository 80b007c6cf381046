"""Help, versions, usage errors, and what is said when there is no daemon."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.support import CommandLine, Daemon

LIMIT_S = 0.250
"""Processor time on a machine that does nothing else."""
OURS = 1.5
"""Elsewhere: how many times as much as the smallest program made with the same library takes at that moment."""
SMALLEST = """
import typer
app = typer.Typer()
@app.callback()
def everything(home: str = "") -> None: "Says hello."
@app.command()
def hello(name: str, loud: bool = False) -> None: "Hello."
app(["hello", "--help"])
"""


def quickest(run: Callable[[], int]) -> float:
    """Seconds of processor time of the quickest of several, which on a quiet machine is what a person waits for."""
    run()  # the first one compiles
    best = float("inf")
    for _ in range(10):
        before = os.times()
        assert run() == 0
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, spent)
    return best


def is_quick(asyncsched: CommandLine, *words: str) -> bool:
    """Within the limit, or, where processors are shared, not much slower than the library alone."""

    def smallest() -> int:
        return subprocess.run([sys.executable, "-c", SMALLEST], stdout=subprocess.DEVNULL, check=False).returncode

    ours = quickest(lambda: asyncsched.process(*words).status)
    return ours < LIMIT_S or ours < OURS * quickest(smallest)


def test_help_appears_at_once(asyncsched: CommandLine) -> None:
    assert is_quick(asyncsched, "--help")
    assert is_quick(asyncsched, "trigger", "--help")


def test_client_commands_answer_at_once(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["dags.list"] = []
    assert is_quick(asyncsched, "dags", "list", "--json")


@pytest.mark.parametrize("module", ["trio", "sqlalchemy", "asyncio", "msgspec", "rich.table"])
def test_client_commands_import_little(asyncsched: CommandLine, daemon: Daemon, module: str) -> None:
    daemon.answers["dags.list"] = []
    listed = asyncsched.process("dags", "list", "--json", PYTHONPROFILEIMPORTTIME="1").err
    assert "scheduler.control.client" in listed
    assert f" {module}\n" not in listed


@pytest.mark.parametrize("module", ["trio", "sqlalchemy", "alembic", "asyncio", "msgspec", "scheduler.store"])
def test_help_does_not_import_what_it_does_not_need(asyncsched: CommandLine, module: str) -> None:
    listed = asyncsched.process("--help", PYTHONPROFILEIMPORTTIME="1").err
    assert "scheduler.cli.app" in listed
    assert f" {module}\n" not in listed


EVERY_COMMAND = [
    *("run", "init", "status", "trigger", "logs", "worker", "version", "completion"),
    *("dags list", "dags show", "dags check", "dags next", "dags pause", "dags unpause"),
    *("runs list", "runs show", "runs cancel", "tasks list", "tasks show"),
    *("pools list", "pools set", "pools delete", "db migrate", "db check"),
]


def test_every_command_of_the_promise_is_there(asyncsched: CommandLine) -> None:
    from typer.main import get_command

    from scheduler.cli.app import build

    root = get_command(build())
    for command in EVERY_COMMAND:
        group = root
        for word in command.split():
            group = group.commands[word]
        assert group.help


LISTINGS = ["dags list", "dags check", "dags next", "runs list", "runs show", "tasks list", "tasks show", "pools list"]


@pytest.mark.parametrize("command", [*LISTINGS, "status", "trigger", "logs", "db check", "version"])
def test_every_listing_has_json(command: str) -> None:
    from typer.main import get_command

    from scheduler.cli.app import build

    group = get_command(build())
    for word in command.split():
        group = group.commands[word]
    assert any("--json" in parameter.opts for parameter in group.params)


def test_without_words_it_shows_the_help(asyncsched: CommandLine) -> None:
    shown = asyncsched()
    assert shown.status in (0, 2)
    assert "Every day" in shown.out + shown.err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["status", "--bogus"], 2),
        (["nothing"], 2),
        (["trigger"], 2),
        (["--color", "sometimes", "status"], 2),
        # The daemon speaks sysexits, so that a service manager knows not to try again.
        (["run", "--bogus"], 64),
        (["--home", "/tmp", "run", "--workers", "many"], 64),
    ],
)
def test_wrong_usage_is_refused(asyncsched: CommandLine, words: list[str], status: int) -> None:
    ended = asyncsched(*words)
    assert ended.status == status
    assert ended.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["trigger", "etl"],
        ["logs", "etl"],
        ["dags", "list"],
        ["dags", "check"],
        ["runs", "show", "etl"],
        ["tasks", "list", "etl"],
        ["pools", "set", "http", "-1"],
    ],
)
def test_without_a_daemon_the_home_is_named_and_the_status_is_5(
    asyncsched: CommandLine, home: Path, words: list[str]
) -> None:
    ended = asyncsched(*words)
    assert ended.status == 5
    assert str(home) in ended.err
    assert "asyncsched run" in ended.err
    assert ended.out == ""


def test_home_is_found_by_option_before_and_after_the_command(
    asyncsched: CommandLine, daemon: Daemon, home: Path
) -> None:
    daemon.answers["dags.list"] = []
    elsewhere = {"ASYNCSCHED_HOME": "/nonexistent"}
    assert asyncsched("dags", "list", **elsewhere).status == 5
    assert asyncsched("dags", "list", "--home", str(home), **elsewhere).status == 0
    assert asyncsched("--home", str(home), "dags", "list", **elsewhere).status == 0


def test_version(asyncsched: CommandLine) -> None:
    assert asyncsched("version").out.startswith("asyncsched ")
    assert asyncsched("--version").out == asyncsched("version").out
    assert set(asyncsched("version", "--json").json) == {"version", "python", "platform"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(asyncsched: CommandLine, shell: str) -> None:
    shown = asyncsched("completion", shell)
    assert shown.status == 0
    assert "_ASYNCSCHED_COMPLETE" in shown.out


def test_the_shell_completes_commands_and_dags(asyncsched: CommandLine, daemon: Daemon) -> None:
    daemon.answers["dags.list"] = [{"dag_id": "etl"}, {"dag_id": "report"}]

    def complete(line: str) -> str:
        variables = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return asyncsched.process(_ASYNCSCHED_COMPLETE="complete_bash", **variables).out

    assert "trigger" in complete("asyncsched tri").split()
    assert complete("asyncsched trigger e").split() == ["etl"]


def test_an_error_has_its_colour_on_a_terminal_unless_it_is_not_wanted(asyncsched: CommandLine) -> None:
    assert "\x1b[1;31merror: " in asyncsched.on_terminal("status").out
    assert "31m" not in asyncsched.on_terminal("status", NO_COLOR="1").out
    assert "31m" not in asyncsched.on_terminal("--color", "never", "status").out
