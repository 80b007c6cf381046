"""`asyncsched completion`: the script that teaches a shell our commands."""

from enum import StrEnum
from typing import Annotated

import typer

PROGRAM = "asyncsched"
VARIABLE = "_ASYNCSCHED_COMPLETE"


class Shell(StrEnum):
    """Shells that are supported."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", show_default=False)],
    install: Annotated[
        bool, typer.Option("--install", metavar="", help="Write it where the shell looks for it.")
    ] = False,
) -> None:
    """Print the script that lets a shell complete our commands.

    For bash: eval "$(asyncsched completion bash)"
    """
    import sys

    from typer.completion import get_completion_script  # type: ignore[attr-defined]
    from typer.completion import install as write  # type: ignore[attr-defined]

    if install:
        _, path = write(shell=str(shell), prog_name=PROGRAM, complete_var=VARIABLE)
        sys.stdout.write(f"{path}\n")
        return
    script = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=str(shell))
    sys.stdout.write(script + "\n")


def prepare() -> None:
    """Teach typer to answer the scripts it prints; without --install-completion it would not by itself."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()
