"""Run a program to its end, or to the end of our patience: input, output, time and memory are all bounded."""

import os
from collections.abc import Mapping, Sequence

import trio
from attrs import frozen

from nurseries.child import DEVNULL, Child, ChildSpec, open_child

OUTPUT_LIMIT = 16 * 1024 * 1024

_CHUNK = 64 * 1024
_DRAIN_LIMIT_S = 2.0


@frozen(kw_only=True)
class Completed:
    """How a program ended and what it said.

    `returncode` is negative for a signal. `timed_out` and `overflowed` say that it was killed for taking too
    long or for writing more than allowed; the output is then what there was until that moment.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    overflowed: bool = False


class _Output:
    """One of the program's output streams, collected up to a limit."""

    def __init__(self, limit: int) -> None:
        read, self.theirs = os.pipe()
        self.stream = trio.lowlevel.FdStream(read)
        self.data = bytearray()
        self.limit = limit
        self.overflowed = False

    async def collect(self, child: Child) -> None:
        """Read to the end; kill the child if the limit is passed."""
        while chunk := await self.stream.receive_some(_CHUNK):
            room = self.limit - len(self.data)
            self.data += chunk[:room]
            if len(chunk) > room and not self.overflowed:
                self.overflowed = True
                child.kill()


async def run_to_end(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    name: str | None = None,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    memory_limit: int | None = None,
    output_limit: int = OUTPUT_LIMIT,
    user: str | int | None = None,
    group: str | int | None = None,
    pass_fds: Sequence[int] = (),
    nice: int = 0,
) -> Completed:
    """Run a program under a keeper until it ends; kill it and all it started after `timeout` seconds.

    The same happens on cancellation, when this process dies, and when stdout or stderr exceeds `output_limit`
    bytes. `memory_limit` is in bytes of address space. Raises `OSError` if the program cannot be started.
    """
    outputs = _Output(output_limit), _Output(output_limit)
    feed, theirs = _input(stdin)
    spec = ChildSpec(
        name=name or os.path.basename(os.fspath(argv[0])),
        argv=argv,
        env=env,
        cwd=cwd,
        user=user,
        group=group,
        pass_fds=pass_fds,
        stdin=theirs,
        stdout=outputs[0].theirs,
        stderr=outputs[1].theirs,
        stop_grace=0.0,
        nice=nice,
        memory_limit=memory_limit,
    )
    given_away = [outputs[0].theirs, outputs[1].theirs, *([] if theirs == DEVNULL else [theirs])]
    try:
        async with open_child(spec) as child:
            while given_away:  # ours are closed, so that the end of the program is the end of its output
                os.close(given_away.pop())
            return await _attend(child, outputs, feed, stdin, timeout)
    finally:
        while given_away:
            os.close(given_away.pop())
        for stream in (*(output.stream for output in outputs), *([] if feed is None else [feed])):
            await _close(stream)


async def _attend(
    child: Child,
    outputs: tuple[_Output, _Output],
    feed: trio.lowlevel.FdStream | None,
    stdin: bytes,
    timeout: float,
) -> Completed:
    async with trio.open_nursery() as nursery:
        for output in outputs:
            nursery.start_soon(output.collect, child)
        if feed is not None:
            nursery.start_soon(_feed, feed, stdin)
        with trio.move_on_after(timeout) as patience:
            await child.wait()
        if patience.cancelled_caught:
            await child.stop(grace=0.0)
        # The program's tree is gone, so the streams end; should anything else hold them, that is not our
        # output.
        nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, trio.current_time() + _DRAIN_LIMIT_S)
    return Completed(
        returncode=await child.wait(),
        stdout=bytes(outputs[0].data),
        stderr=bytes(outputs[1].data),
        timed_out=patience.cancelled_caught,
        overflowed=any(output.overflowed for output in outputs),
    )


def _input(stdin: bytes) -> tuple[trio.lowlevel.FdStream | None, int]:
    if not stdin:
        return None, DEVNULL
    theirs, ours = os.pipe()
    return trio.lowlevel.FdStream(ours), theirs


async def _feed(stream: trio.lowlevel.FdStream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the program did not want to read it all
    finally:
        await _close(stream)


async def _close(stream: trio.lowlevel.FdStream) -> None:
    """Close without a checkpoint that could be cancelled half-way: closing a pipe does not wait."""
    with trio.CancelScope(shield=True):
        await stream.aclose()
