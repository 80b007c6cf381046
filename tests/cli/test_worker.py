"""`worker`: the worker process of this home, with the configuration's limits."""

from pathlib import Path

from scheduler.cli.worker import arguments
from tests.cli.support import CommandLine


def test_the_worker_gets_home_and_configuration(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "asyncsched.toml"
    config.write_text("[worker]\nslots = 3\nkill_grace_s = 1.5\n")
    words = arguments(home, config)
    assert f"--socket={home}/run/worker.sock" in words
    assert f"--spool={home}/worker" in words
    assert "--slots=3" in words
    assert "--kill-grace=1.5" in words


def test_options_of_the_worker_process_pass_through(asyncsched: CommandLine) -> None:
    refused = asyncsched.process("worker", "--slots", "none")
    assert refused.status == 2
    assert "argument --slots" in refused.err


def test_it_is_not_in_the_everyday_help_but_has_its_own(asyncsched: CommandLine) -> None:
    assert "worker" not in asyncsched("--help").out
    assert "apart from the daemon" in asyncsched("worker", "--help").out
