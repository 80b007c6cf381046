"""The worker as a command: understandable help, understandable mistakes, light imports."""

import subprocess
import sys

import pytest

from scheduler.executors.worker import parse


def test_the_help_explains_every_option() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scheduler.executors.worker", "--help"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0
    for text in ("--socket PATH", "--slots N", "--orphan-grace S", "SIGTERM: take no new work", "spool"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--socket"),
        (["--socket=s", "--spool=d", "--slots=0"], "--slots: must be at least 1"),
        (["--socket=s", "--spool=d", "--slots=x"], "--slots"),
        (["--socket=s", "--spool=d", "--slots=1", "--kill-grace=-1"], "--kill-grace: must be seconds, 0 or more"),
        (["--socket=s", "--spool=d", "--slots=1", "--kill-grace=nan"], "--kill-grace"),
    ],
)
def test_a_mistake_names_its_option(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("scheduler.executors.worker", {"asyncio", "sqlalchemy", "asyncpg", "scheduler.store", "scheduler.authoring"}),
        ("scheduler.executors.zygote", {"asyncio", "trio", "sqlalchemy", "asyncpg", "scheduler.store"}),
        ("scheduler.executors.local", {"asyncio", "sqlalchemy", "asyncpg", "scheduler.store", "scheduler.authoring"}),
    ],
)
def test_nothing_heavy_is_imported(module: str, banned: set[str]) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert not banned & set(done.stdout.split())
