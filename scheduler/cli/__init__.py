"""The command line: parses and prints, decides nothing.

The only room where functions import: each command loads what it needs when it runs, so that `--help` and the
small commands start at once.
"""

import os
import sys


def main() -> None:
    """Run the command line of this process and exit with its status."""
    from scheduler.cli.app import build

    if "_ASYNCSCHED_COMPLETE" in os.environ:
        from scheduler.cli.completion import prepare

        prepare()
    try:
        build()(prog_name="asyncsched")
    except SystemExit as end:
        # Usage errors are 2 for clients; the daemon speaks sysexits, which service managers know.
        if end.code == 2 and _is_daemon(sys.argv[1:]):
            raise SystemExit(64) from None
        raise
    except (Exception, KeyboardInterrupt) as error:
        from scheduler.cli.failures import explain

        status = explain(error)
        if status is None:
            raise
        sys.exit(status)


def _is_daemon(arguments: list[str]) -> bool:
    words = iter(arguments)
    for word in words:
        if word in ("--home", "--color"):
            next(words, None)
        elif not word.startswith("-"):
            return word == "run"
    return False
