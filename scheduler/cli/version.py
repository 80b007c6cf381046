"""`asyncsched version`."""

import typer

from scheduler.cli.options import JsonOption


def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    import platform
    import sys

    from scheduler.cli.output import print_json

    if as_json:
        print_json({"version": number(), "python": platform.python_version(), "platform": sys.platform})
    else:
        sys.stdout.write(f"asyncsched {number()}\n")


def number() -> str:
    """The version of the installed distribution."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("asyncsched")
    except PackageNotFoundError:
        return "0+unknown"  # run from a source tree that was never installed


def print_and_exit(asked: bool) -> None:
    """Callback of `--version`."""
    if asked:
        version()
        raise typer.Exit
