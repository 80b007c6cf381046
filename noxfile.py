"""What CI runs, and what a developer runs: `nox` for everything, `nox -s tests -- tests/store` for a part."""

import os

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests", "stress"]
nox.options.reuse_existing_virtualenvs = True

TOOLS = ["--constraint", "constraints.txt"]


def _install(session: nox.Session, *groups: str) -> None:
    """This project and what the named dependency groups hold, at the versions CI was green with."""
    session.install("--quiet", *TOOLS, ".")
    requirements = [line for group in groups for line in nox.project.load_toml()["dependency-groups"][group]]
    session.install("--quiet", *TOOLS, *requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, and who may import whom."""
    _install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def types(session: nox.Session) -> None:
    """Static types, strict."""
    _install(session, "types")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything but the stress tests, on real PostgreSQL and real processes."""
    _install(session, "test")
    session.run("pytest", "-m", "not stress", *(session.posargs or ["tests"]), env=_environment())


@nox.session
def stress(session: nox.Session) -> None:
    """The lock order and cancellation under load. ASYNCSCHED_STRESS_SECONDS sets how long the soak runs.

    What measures time runs by itself, after the rest has run in a worker for each core, at most four. A part that
    is named runs in one process; `nox -s stress -- -n 2 tests/stress` gives it two.
    """
    _install(session, "test")
    if session.posargs:
        session.run("pytest", "-m", "stress", *session.posargs, env=_environment())
        return
    workers = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "load", "--maxschedchunk", "1"]
    session.run("pytest", "-m", "stress and not alone", *workers, "tests", env=_environment())
    session.run("pytest", "-m", "stress and alone", "tests", env=_environment())


@nox.session
def bench(session: nox.Session) -> None:
    """Measure and print the table; see bench/README.md."""
    _install(session, "test")
    session.run("python", "-m", "bench", *session.posargs, env={"PYTHONPATH": "."})


def _environment() -> dict[str, str]:
    # bytecode is written: start-up times are part of what is tested
    return {"CI": os.environ.get("CI", "")}
