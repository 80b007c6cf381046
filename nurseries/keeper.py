"""The keeper: a tiny process between a parent and one child, which ends the child when the parent is gone.

Run as a script (`python -I -S keeper.py FD NAME`), never imported by the parent's program. FD is one end of a
socket pair, the lifeline. The parent writes a spec (length, `marshal`) and then single bytes; end of file
means the parent is gone, however it died. The answers are frames of five bytes: what happened, and a number.

Why not `PR_SET_PDEATHSIG`: the kernel ties that to the *thread* that forked, and trio forks in threads that
end.

The keeper is a subreaper: what the child leaves behind, even daemonised out of its group, becomes the
keeper's and is killed. It says "exited" only when nothing is left. So it imports as little as it can: it
lives as long as the child does, and every start waits for it.
"""

import ctypes
import errno
import marshal
import os
import resource
import select
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36

STOP = 0  # the byte that asks for the whole way out; every other byte is a signal for the child
STARTED, FAILED, EXITED = b"S", b"F", b"X"

_SWEEP_LIMIT_S = 5.0


def main() -> None:
    """Start the child, pass on what the parent asks for, end it, say how it ended."""
    lifeline = int(sys.argv[1])
    os.set_inheritable(lifeline, False)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _nothing)
    # Asked to end by somebody else than the parent: the way out is the same.
    signal.signal(signal.SIGTERM, _nothing)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    spec = marshal.loads(_read_frame(lifeline))  # noqa: S302 - written by the same interpreter, over our own socket
    try:
        child = _start(spec)
    except OSError as error:
        _tell(lifeline, FAILED, error.errno or 0)
        return
    _tell(lifeline, STARTED, child)
    _become_small()
    code = _keep(child, lifeline, wake_read, spec)
    _sweep()
    _tell(lifeline, EXITED, code)


def _nothing(number: int, frame: object) -> None:
    """Take a signal only for its byte on the wake-up pipe."""


def _read_frame(lifeline: int) -> bytes:
    size = int.from_bytes(_read_exactly(lifeline, 4), "big")
    return _read_exactly(lifeline, size)


def _read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            raise SystemExit(0)  # the parent died before there was anything to keep
        data += more
    return data


def _tell(lifeline: int, what: bytes, number: int) -> None:
    try:
        os.write(lifeline, what + number.to_bytes(4, "big", signed=True))
    except OSError:
        return  # nobody left to tell


def _start(spec: dict[str, object]) -> int:
    """Fork and exec the child in a session of its own;

    its pid. Raises the `OSError` of whatever step failed.
    """
    read, write = os.pipe()  # close-on-exec: end of file means the exec worked
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            _become(spec)
        except OSError as error:
            os.write(write, (error.errno or errno.EIO).to_bytes(4, "big"))
        except BaseException:
            os.write(write, errno.EINVAL.to_bytes(4, "big"))
        finally:
            os._exit(127)
    os.close(write)
    problem = os.read(read, 4)
    os.close(read)
    if problem:
        os.waitpid(pid, 0)
        number = int.from_bytes(problem, "big")
        raise OSError(number, os.strerror(number))
    return pid


def _become(spec: dict[str, object]) -> None:
    """In the child: take on the session, limits and identity of the spec, then its program. Never returns."""
    os.setsid()
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if spec["memory_limit"] is not None:
        limit = int(str(spec["memory_limit"]))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if spec["nice"]:
        os.nice(int(str(spec["nice"])))
    if spec["umask"] is not None:
        os.umask(int(str(spec["umask"])))
    identity = spec["identity"]
    if identity is not None:
        assert isinstance(identity, tuple)
        uid, gid, groups = identity
        if groups is not None:
            os.setgroups(groups)
        if gid is not None:
            os.setregid(gid, gid)
        if uid is not None:
            os.setreuid(uid, uid)
    if spec["cwd"] is not None:
        os.chdir(str(spec["cwd"]))
    argv, env = spec["argv"], spec["env"]
    assert isinstance(argv, list)
    assert isinstance(env, dict)
    _exec(argv, env)


def _exec(argv: list[str], env: dict[str, str]) -> None:
    """Become the program, looked up in the child's own PATH.

    Not `os.execvpe`: that imports a module, which somebody who has just given up being root may not read.
    """
    if "/" in argv[0]:
        os.execve(argv[0], argv, env)  # noqa: S606 - the parent decides what runs
    problem: OSError = FileNotFoundError(errno.ENOENT, "not found")
    for folder in env.get("PATH", os.defpath).split(":"):
        try:
            os.execve(f"{folder}/{argv[0]}", argv, env)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problem = error
    raise problem


def _become_small() -> None:
    """Let go of everything that is the child's: a pipe held here would never reach its end."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd):
            os.close(fd)
    os.close(null)
    os.chdir("/")


def _keep(child: int, lifeline: int, wake_read: int, spec: dict[str, object]) -> int:
    """Wait for the child's end, bringing it about if asked to or if the parent is gone; its exit code."""
    stop_signal, grace = int(str(spec["stop_signal"])), float(str(spec["stop_grace"]))
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    kill_at: float | None = None
    while not _has_exited(child):
        patience = None if kill_at is None else max(0.0, kill_at - time.monotonic()) * 1000 + 1
        ready = {fd for fd, _ in poll.poll(patience)}
        stop = False
        if wake_read in ready:
            stop = signal.SIGTERM in os.read(wake_read, 4096)
        if lifeline in ready:
            try:
                asked = os.read(lifeline, 64)
            except OSError:
                asked = b""
            if not asked:
                poll.unregister(lifeline)
            for number in asked:
                if number != STOP:
                    _signal(child, number)
            stop = stop or not asked or STOP in asked
        if stop and kill_at is None:
            kill_at = time.monotonic() + grace
            _signal(child, stop_signal)
        if kill_at is not None and time.monotonic() >= kill_at:
            _signal_group(child, signal.SIGKILL)
            kill_at = time.monotonic() + 1.0
    # The dead leader still holds its number, so the group cannot be anybody else's.
    _signal_group(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _has_exited(child: int) -> bool:
    """Whether the child has ended, reaping everything else that has.

    The child itself stays a zombie for now.
    """
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return False
        if ended.si_pid == child:
            return True
        os.waitpid(ended.si_pid, 0)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return  # ended meanwhile, or a signal that does not exist


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except OSError:
        return


def _sweep() -> None:
    """Kill and reap what the child left behind.

    Each one killed may leave its own children to us, so: until none.
    """
    deadline = time.monotonic() + _SWEEP_LIMIT_S
    pause = 0.0005
    while time.monotonic() < deadline:  # a process stuck in the kernel cannot be waited out
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            for orphan in _children():
                _signal(orphan, signal.SIGKILL)
            time.sleep(pause)
            pause = min(pause * 2, 0.05)


def _children() -> list[int]:
    """The pids of our own children, from /proc."""
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == me:
                found.append(int(name))
    return found


if __name__ == "__main__":
    main()
