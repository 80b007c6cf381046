"""How the user code of every system says when it ran: one line, "began ended sent", nanoseconds of CLOCK_MONOTONIC.

The clock is the same in all processes of a machine. The descriptor stays open: in a process for each task that makes
no difference, and a queue that runs thousands of jobs in one process pays one write a job.
"""

import os
import time

descriptor = -1


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def stamp(path: str, began: int, sent: int = 0) -> None:
    """Append one line to the file at `path`. `sent`: when the job was asked for, if it knows."""
    global descriptor
    if descriptor < 0:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, b"%d %d %d\n" % (began, now(), sent))
