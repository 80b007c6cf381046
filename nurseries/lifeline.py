"""The child's side of a held lifeline:

learning that the parent is gone. Imports no trio before it is needed.
"""

import os

VARIABLE = "NURSERIES_LIFELINE"

_taken: list[int | None] = []


def watch_lifeline() -> int | None:
    """The file descriptor whose end of file means that the parent is gone; None if there is no lifeline.

    Takes it out of the environment and closes it on exec, so that our own children neither see nor hold it.
    Calling it again gives the same answer.
    """
    if not _taken:
        number = os.environ.pop(VARIABLE, "")
        fd = int(number) if number.isdigit() else None
        if fd is not None:
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)
        _taken.append(fd)
    return _taken[0]


async def wait_for_parent_death() -> None:
    """Return when the parent is gone, in trio. Without a lifeline: never."""
    import trio

    fd = watch_lifeline()
    if fd is None:
        await trio.sleep_forever()
    while True:
        await trio.lowlevel.wait_readable(fd)
        try:
            if not os.read(fd, 4096):
                return
        except BlockingIOError:
            continue
        except ConnectionError:
            return
