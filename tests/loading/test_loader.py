"""Real DAG files in real child processes: whatever a file does, one precise message is all that comes of it."""

import hashlib
import os
import textwrap
from pathlib import Path

import pytest
import trio

from scheduler.loading.loader import ImportFailure, Loaded, load_file

MIB = 1024 * 1024
GOOD = """
from scheduler import dag, task

@dag
def one():
    @task
    def hello(): ...
    hello()

one()
"""


def load(folder: Path, text: str | bytes, *, timeout: float = 20.0, memory: int = 1024 * MIB) -> Loaded | ImportFailure:
    path = folder / "hostile.py"
    path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())

    async def run() -> Loaded | ImportFailure:
        with trio.fail_after(60):
            return await load_file(path, timeout=timeout, memory_limit=memory, shown_as="hostile.py")

    return trio.run(run)


def failure(folder: Path, text: str | bytes, **limits: float) -> ImportFailure:
    result = load(folder, text, **limits)  # type: ignore[arg-type]
    assert isinstance(result, ImportFailure), result
    assert result.file == "hostile.py"
    assert "\n" not in result.message
    return result


def test_a_good_file_gives_its_dags_its_text_and_the_hash_of_it(tmp_path: Path) -> None:
    result = load(tmp_path, GOOD)
    assert isinstance(result, Loaded)
    assert result.source == GOOD
    assert result.source_hash == hashlib.sha256(GOOD.encode()).hexdigest()
    assert [dag.dag_id for dag in result.dags] == ["one"]
    assert result.dags[0].line == 4


def test_a_file_without_dags_is_no_error(tmp_path: Path) -> None:
    result = load(tmp_path, "x = 1\n")
    assert isinstance(result, Loaded)
    assert result.dags == ()


def test_text_is_kept_exactly_but_for_the_byte_order_mark(tmp_path: Path) -> None:
    result = load(tmp_path, b"\xef\xbb\xbfx = '\xc3\xa4'\r\ny = 2\r\n")
    assert isinstance(result, Loaded)
    assert result.source == "x = 'ä'\r\ny = 2\r\n"


# Each with the line that is to blame (or None where nobody can know) and what the message must say.
BROKEN = {
    "syntax error": ("x = 1\ny = (\nz = 2\n", 2, "SyntaxError: '(' was never closed"),
    "exception": ("def f():\n    raise ValueError('no\\nway')\nf()\n", 2, "ValueError: no"),
    "exception whose text fails": (
        "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E\n",
        3,
        "E: (its text cannot be shown)",
    ),
    "missing module": ("import os\nimport no_such_module_at_all\n", 2, "install it for"),
    "sys.exit": ("import sys\n\nsys.exit(3)\n", 3, "calls sys.exit(3)"),
    "os._exit": ("import os\n\n\nos._exit(0)\n", 4, "calls os._exit(0)"),
    "kernel exit": ("import ctypes\nctypes.CDLL(None)._exit(0)\n", None, "ended with status 0"),
    "keyboard interrupt": ("raise KeyboardInterrupt\n", 1, "KeyboardInterrupt"),
    "recursion": ("def f():\n    f()\nf()\n", 2, "RecursionError"),
    "crash in C": ("import ctypes\n\nctypes.string_at(0)\n", 3, "crashed with SIGSEGV"),
    "abort": ("import os\nos.abort()\n", 2, "crashed with SIGABRT"),
    "kill -9": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", None, "killed (SIGKILL)"),
    "kill -15": ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n", None, "SIGTERM"),
    "all descriptors closed": (f"import os\nos.closerange(0, 1 << 20)\n{GOOD}", None, "closes descriptors"),
    "cycle": (
        """\
        from scheduler import DAG, task
        with DAG("d"):
            a, b, c = task.empty("a"), task.empty("b"), task.empty("c")
            a >> b >> c
            c >> a
        """,
        5,
        "in a circle: a >> b >> c >> a",
    ),
    "duplicate task": (
        """\
        from scheduler import DAG, task
        with DAG("d"):
            task.empty("a")

            task.empty("a")
        """,
        5,
        "task_id 'a' is used twice in dag 'd' (first on line 3)",
    ),
    "duplicate dag": (
        "from scheduler import DAG\nDAG('d')\nDAG('d')\n",
        3,
        "dag_id 'd' is used twice in this file (first on line 2)",
    ),
    "non-ASCII id": ("from scheduler import DAG\nDAG('größe')\n", 2, r"'gr\xf6\xdfe' is not valid"),
    "id that leads upwards": ("from scheduler import DAG\nDAG('../../etc')\n", 2, "dag_id '../../etc' is not valid"),
    "dots": ("from scheduler import DAG\nDAG('..')\n", 2, "dag_id '..' is not valid"),
    "id with NUL": ("from scheduler import DAG\nDAG('a\\0b')\n", 2, r"'a\x00b' is not valid"),
    "id with RTL mark": ("from scheduler import DAG\nDAG('a\u202eb')\n", 2, r"'a\u202eb' is not valid"),
    "id of 300 characters": ("from scheduler import DAG\nDAG('x' * 300)\n", 2, "use 1 to 200 letters"),
    "emoji task": (
        "from scheduler import DAG, task\nwith DAG('d'):\n    task.empty('\N{PILE OF POO}')\n",
        3,
        "task_id '\\U0001f4a9' is not valid",
    ),
    "param that is not JSON": (
        "from scheduler import DAG\n\nDAG('d', params={'x': object()})\n",
        3,
        "param 'x' is not JSON",
    ),
    "bad cron": ("from scheduler import DAG\nDAG('d', schedule='99 * * * *')\n", 2, "its minute field '99'"),
    "cron that never comes": (
        "from scheduler import DAG\nDAG('d', schedule='0 0 30 2 *')\n",
        2,
        "never comes true",
    ),
    "interval too short": (
        "from datetime import timedelta\nfrom scheduler import DAG\nDAG('d', schedule=timedelta(milliseconds=1))\n",
        3,
        "1 second or longer",
    ),
    "wrong trigger rule": (
        "from scheduler import DAG, task\nwith DAG('d'):\n    task.empty('t', trigger_rule='all_sucess')\n",
        3,
        "did you mean 'all_success'?",
    ),
    "not UTF-8": (b"x = '\xff'\n", None, "save it as UTF-8"),
    "other encoding": (b"# coding: latin-1\nx = '\xff'\n", None, "declared to be iso-8859-1"),
    "NUL in text": (b"x = 1\n\0\n", None, "null byte"),
    "forged answer": (
        "import os\n"
        "for fd in range(3, 70000):\n"
        "    try: os.write(fd, b'{\"dags\": [{}]}')\n"
        "    except OSError: pass\n"
        "import ctypes\n"
        "ctypes.CDLL(None)._exit(0)\n",
        None,
        "interferes with how it is loaded",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gets_one_message_with_its_line(tmp_path: Path, name: str) -> None:
    text, line, words = BROKEN[name]
    result = failure(tmp_path, text)
    assert words in result.message
    assert result.line == line


@pytest.mark.parametrize(
    "loop", ["while True: pass", "import time; time.sleep(600)", "import re; re.match('(a+)+b', 'a' * 200)"]
)
def test_a_file_that_does_not_end_is_stopped_and_told_where_it_was(tmp_path: Path, loop: str) -> None:
    result = failure(tmp_path, f"x = 1\n\n{loop}\n", timeout=1.0)
    assert "took longer than 1 s (loading.timeout_s)" in result.message
    assert result.line == 3


def test_a_file_that_wants_all_memory_is_told_so(tmp_path: Path) -> None:
    result = failure(tmp_path, "x = []\nwhile True:\n    x.append(bytearray(10_000_000))\n", memory=256 * MIB)
    assert "loading.memory_mb" in result.message
    assert result.line == 3


def test_an_imported_module_is_named_and_the_line_is_that_of_the_import(tmp_path: Path) -> None:
    (tmp_path / "helper_with_a_bug.py").write_text("y = (\n")
    result = failure(tmp_path, "x = 1\nimport helper_with_a_bug\n")
    assert result.line == 2
    assert "helper_with_a_bug.py, line 1" in result.message


def test_modules_beside_the_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "helper_beside.py").write_text("ID = 'from_helper'\n")
    result = load(tmp_path, "from scheduler import DAG\nfrom helper_beside import ID\nDAG(ID)\n")
    assert isinstance(result, Loaded)
    assert result.dags[0].dag_id == "from_helper"


def test_dags_of_an_imported_file_stay_with_that_file(tmp_path: Path) -> None:
    (tmp_path / "other_dags.py").write_text("from scheduler import DAG\nother = DAG('other')\ndef make(i): DAG(i)\n")
    result = load(
        tmp_path, "from scheduler import DAG\nfrom other_dags import other, make\nDAG('mine')\nmake('made')\n"
    )
    assert isinstance(result, Loaded)
    assert [dag.dag_id for dag in result.dags] == ["mine", "made"]
    assert [dag.line for dag in result.dags] == [3, 4]


HARMLESS = {
    "100 MB printed": "print('x' * 100_000_000)\n",
    "a flood on both streams": "import sys\nfor _ in range(10**5): print('x' * 99); print('y' * 99, file=sys.stderr)\n",
    "descriptors 0-255 closed": "import os\nos.closerange(0, 256)\n",
    "live thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n",
    "atexit": "import atexit, time\natexit.register(time.sleep, 600)\n",
    "fork": "import os\nos.fork()\n",
    "fork that stays": "import os, time\nif os.fork() == 0: time.sleep(600)\n",
    "signals blocked": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\n",
    "cwd, umask, path changed": "import os, sys\nos.chdir('/'); os.umask(0); sys.path.clear()\n",
    "json and msgspec patched": "import json, msgspec\njson.dumps = msgspec.json.encode = json.loads = None\n",
    "stdout replaced": "import sys\nsys.stdout = sys.stderr = None\n",
    "reads from stdin": "import sys\nassert sys.stdin.read() == ''\n",
    "excepthook": "import sys\nsys.excepthook = None\n",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_bad_manners_do_not_hide_a_good_dag(tmp_path: Path, name: str) -> None:
    result = load(tmp_path, HARMLESS[name] + GOOD)
    assert isinstance(result, Loaded), result
    assert [dag.dag_id for dag in result.dags] == ["one"]


def test_a_file_that_kills_its_parent_hurts_only_itself(tmp_path: Path) -> None:
    result = failure(
        tmp_path, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nwhile True: pass\n", timeout=5.0
    )
    assert "kill" in result.message or "longer" in result.message


def test_ten_thousand_tasks_are_loaded(tmp_path: Path) -> None:
    result = load(
        tmp_path,
        """\
        from scheduler import DAG, task
        with DAG("wide"):
            start = task.empty("start")
            for i in range(9_999):
                start >> task.empty(f"t{i}")
        """,
    )
    assert isinstance(result, Loaded), result
    assert len(result.dags[0].tasks) == 10_000


def test_secrets_of_the_daemon_are_not_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCSCHED_DATABASE_DSN", "postgresql://u:secret@h/d")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setenv("MY_BUCKET", "b1")
    result = load(
        tmp_path,
        """\
        import os
        from scheduler import DAG
        assert "ASYNCSCHED_DATABASE_DSN" not in os.environ and "NOTIFY_SOCKET" not in os.environ
        DAG(os.environ["MY_BUCKET"])
        """,
    )
    assert isinstance(result, Loaded), result
    assert result.dags[0].dag_id == "b1"


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    async def run() -> Loaded | ImportFailure:
        return await load_file(tmp_path / "gone.py", timeout=10, memory_limit=1024 * MIB)

    result = trio.run(run)
    assert isinstance(result, ImportFailure)
    assert result.message == "the file cannot be read: No such file or directory"
    assert str(result).startswith(os.fspath(tmp_path))
