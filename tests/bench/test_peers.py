"""The parts of the comparison that need no peer: pins, stamps, what is shown when somebody is missing."""

import io
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from rich.console import Console

from bench.daemon import Failed
from bench.measure import Target
from bench.peers import install, plot, show, versions
from bench.peers.board import DAGS, JOBS, MEASURES, Board, Side
from bench.peers.children import Children, environment
from bench.peers.compare import Comparison, Contender
from bench.peers.ours import dag_file
from bench.peers.programs import stamps as writing
from bench.peers.shapes import Sizes
from bench.peers.stamps import Stamp, Stamps, hops, now, rate

MACHINE = {"taken_at": "2026-01-01T00:00:00", "usable_cores": 2, "memory_gb": 24.0, "postgresql": "18"}
PIN = """
[thing]
title = "Thing"
python = ">=3.12,<3.14"
requirements = ["thing[fast]==1.2"]
locked = ["below==0.1"]
"""


# pins


def test_every_peer_is_pinned_down_to_the_last_package() -> None:
    pins = versions.load()
    assert {"airflow", "prefect", "pgqueuer", "procrastinate", "oban"} <= pins.keys()
    assert pins["airflow"].version.startswith("3.")
    assert pins["prefect"].version.startswith("3.")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("below==0.1", "below>=0.1", "not pinned"),
        ("below==0.1", "below", "not pinned"),
        ("below==0.1", "below==0.1; x", "not pinned"),
        ("below==0.1", "Thing==1.3", "twice"),
        (">=3.12,<3.14", "3.12", "python"),
        ('title = "Thing"', "", "title"),
        ('["thing[fast]==1.2"]', "[]", "nothing"),
    ],
)
def test_a_pin_that_is_none_is_refused(old: str, new: str, message: str) -> None:
    versions.load(PIN)
    with pytest.raises(versions.BadVersions, match=message):
        versions.load(PIN.replace(old, new))


def test_another_pin_or_another_python_is_another_environment() -> None:
    pin = versions.load(PIN)["thing"]
    other = versions.load(PIN.replace("below==0.1", "below==0.2"))["thing"]
    assert len({pin.key((3, 12)), pin.key((3, 13)), other.key((3, 12))}) == 3
    assert [pin.runs_on(one) for one in ((3, 11), (3, 12), (3, 13), (3, 14))] == [False, True, True, False]


def test_what_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no uv, and no other interpreter
    pin = versions.load(PIN.replace(">=3.12,<3.14", ">=3.99"))["thing"]
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(Failed, match=r"needs Python >=3\.99"):
        install.environment(pin, tmp_path / "cache")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("a\nERROR: No matching distribution found for x\nb\n", "ERROR: No matching distribution found for x"),
        ("error: no solution\n  cause: because y\n", "cause: because y"),
        ("something\nlast\n\n", "last"),
        ("", "it did not say why"),
    ],
)
def test_the_reason_is_the_line_that_names_the_error(output: str, expected: str) -> None:
    assert install.reason(output) == expected


# stamps


def test_what_user_code_writes_is_what_is_read(tmp_path: Path) -> None:
    path, stamps = tmp_path / "stamps", Stamps(tmp_path / "stamps")
    try:
        began = now()
        writing.stamp(str(path), began, 7)
        writing.stamp(str(path), began - 5)
        first, second = stamps.take(2, limit_s=10)
        assert (first.began, first.sent, second.began, second.sent) == (began - 5, 0, began, 7)
        assert second.began <= second.ended <= now()
        writing.stamp(str(path), 3)
        stamps.forget()
        writing.stamp(str(path), 4)
        assert [one.began for one in stamps.take(1, limit_s=10)] == [4]
    finally:
        os.close(writing.descriptor)
        writing.descriptor = -1


def test_half_a_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    path.write_text("1 2 0\n3 4")
    stamps = Stamps(path)
    assert stamps.take(2, limit_s=0, partly=True) == [Stamp(1, 2, 0)]
    with path.open("a") as file:
        file.write("4 0\n")
    assert stamps.take(1, limit_s=0) == [Stamp(3, 44, 0)]


def test_what_does_not_come_is_a_failure_and_says_how_far_it_was(tmp_path: Path) -> None:
    (tmp_path / "stamps").write_text("1 2 0\n")
    with pytest.raises(Failed, match="1 of 3"):
        Stamps(tmp_path / "stamps").take(3, limit_s=0)


def test_waiting_ends_when_the_system_has_died(tmp_path: Path) -> None:
    def dead() -> None:
        raise Failed("it has died")

    with pytest.raises(Failed, match="it has died"):
        Stamps(tmp_path / "stamps").take(1, limit_s=1000, alive=dead)


def test_hops_and_rates() -> None:
    chain = [Stamp(0, 1_000_000, 0), Stamp(3_000_000, 4_000_000, 0), Stamp(9_000_000, 9_500_000, 0)]
    assert hops(chain) == [2.0, 5.0]
    assert rate([Stamp(0, 10, 0), Stamp(5, 1_500_000_000, 0)], since=500_000_000) == 2.0
    with pytest.raises(Failed):
        rate([], since=0)


def test_the_file_of_dags_is_python_for_both(tmp_path: Path) -> None:
    sizes = Sizes(chain=3, fan=4)
    for imports in ("from scheduler import dag, task", "from airflow.sdk import dag, task"):
        text = dag_file(imports, tmp_path / "stamps", sizes)
        compile(text, "shapes.py", "exec")
        assert "range(4)" in text
        assert "row(3)" in text


# sizes


def test_sizes_by_name() -> None:
    assert Sizes().with_size("runs=7").runs == 7
    assert Sizes().with_size("limit_s=9").limit_s == 9.0
    for wrong in ("runs", "runs=0", "runs=-1", "runs=x", "nothing=1"):
        with pytest.raises(ValueError, match="NAME=N"):
            Sizes().with_size(wrong)


# the board


def board() -> Board:
    """Ours, one measured in part, one missing."""
    made = Board()
    ours = made.add(Side(key="ours", title="ours", group=DAGS, ours=True))
    peer = made.add(Side(key="peer", title="Peer", group=DAGS, what="1.0"))
    made.add(Side(key="gone", title="Gone", group=DAGS, missing="cannot be installed: no wheel"))
    for value in (1.0, 2.0, 4.0):
        ours.report.add("chain", value)
    for value in (30.0, 10.0, 20.0):
        peer.report.add("chain", value)
    peer.report.add("idle_pss", 900.0)
    peer.report.failures += ["fan: 3 of 102 after 120 s", "fan: 3 of 102 after 120 s"]
    return made


def test_median_spread_and_ratio_to_ours() -> None:
    ours, peer, gone = board().cells(DAGS, "chain")
    assert ours is not None
    assert peer is not None
    assert (ours.median, ours.low, ours.high, ours.ratio) == (2.0, 1.0, 4.0, None)
    assert (peer.median, peer.low, peer.high, peer.ratio) == (20.0, 10.0, 30.0, 10.0)
    assert gone is None


def test_without_a_figure_of_ours_there_is_no_ratio() -> None:
    _, peer, _ = board().cells(DAGS, "idle_pss")
    assert peer is not None
    assert peer.ratio is None


def test_jobs_of_queues_refer_to_our_tasks() -> None:
    made = Board()
    made.add(Side(key="ours", title="ours", group=JOBS)).report.add("fan", 1000.0)
    made.add(Side(key="queue", title="Queue", group=JOBS)).report.add("tuned", 5000.0)
    ours, queue = made.cells(JOBS, "tuned")
    assert ours is None
    assert queue is not None
    assert queue.ratio == 5.0


def test_who_is_missing_has_a_line_with_the_reason() -> None:
    made = board()
    made.add(Side(key="later", title="Later", group=DAGS))
    assert made.not_measured(DAGS) == [
        "Peer: not measured: fan: 3 of 102 after 120 s",
        "Gone: not measured: cannot be installed: no wheel",
        "Later: not measured: it was not its turn",
    ]
    assert made.not_measured(JOBS) == []


def test_the_table_shows_everybody() -> None:
    out = Console(file=io.StringIO(), width=200)
    made = board()
    made.sides["peer"].report.add("runs", 3.0, done=70, of=1200)
    made.sides["ours"].report.add("runs", 30.0, done=1200, of=1200)
    assert len(made.cut_off(DAGS)) == 1
    show.show(made, Sizes(runs=7), out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "20 (10 - 30) x10" in text
    assert "7 runs x 10" in text
    assert "70 of 1,200 before the limit" in text
    assert "Gone: not measured: cannot be installed: no wheel" in text
    assert show.rows(board(), DAGS)[0][-1] == "-"


def test_the_plot_shows_everybody() -> None:
    drawn = plot.draw(board(), MACHINE)
    ElementTree.fromstring(drawn)
    assert "20 Peer, x10" in drawn
    assert f"Gone: {plot.MISSING}" in drawn
    assert drawn.count(plot.OURS) == 1


def test_the_plot_shows_who_could_not_be_started() -> None:
    made = board()
    made.add(Side(key="late", title="Late", group=DAGS)).report.failures.append("the API server ended with 1")
    assert f"Late: {plot.MISSING}" in plot.draw(made, MACHINE)


def test_the_json_has_everybody() -> None:
    ours, peer, gone = board().as_json()
    assert ours["measures"][0]["median"] == 2.0
    assert peer["failures"]
    assert gone["missing"] == "cannot be installed: no wheel"


def test_titles_are_told_apart() -> None:
    for group, measures in MEASURES.items():
        titles = [target.title for target in measures.values()]
        assert len(set(titles)) == len(titles), group
        assert all(isinstance(target, Target) for target in measures.values())


# turns


def comparison(tmp_path: Path, order: list[str], *, failing: str = "") -> Comparison:
    def contender(key: str) -> Contender:
        def measure(_place: Path, _home: Path, side: Side, _sizes: Sizes) -> None:
            order.append(key)
            if key == failing:
                raise RuntimeError("boom")
            side.report.add("chain", 1.0)

        return Contender(key=key, group=DAGS, title=key, peer=None, what="", measure=measure)

    made = Comparison(
        lambda: nullcontext(tmp_path),
        Sizes(),
        Console(file=io.StringIO()),
        [contender(key) for key in "abc"],
        {},
    )
    made.prepare()
    return made


def test_every_second_repetition_goes_the_other_way(tmp_path: Path) -> None:
    order: list[str] = []
    made = comparison(tmp_path, order)
    for number in (1, 2, 3):
        made.repetition(number)
    assert "".join(order) == "abccbaabc"


def test_one_that_breaks_does_not_stop_the_others(tmp_path: Path) -> None:
    order: list[str] = []
    made = comparison(tmp_path, order, failing="b")
    assert not made.ours_failed()
    made.repetition(1)
    assert made.ours_failed()
    assert order == ["a", "b", "c"]
    assert "boom" in made.board.not_measured(DAGS)[0]
    assert made.board.cells(DAGS, "chain")[2] is not None


# processes


def test_nothing_of_the_callers_configures_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW__CORE__EXECUTOR", "PREFECT_API_URL", "PGHOST", "PYTHONPATH", "ASYNCSCHED_HOME"):
        monkeypatch.setenv(name, "x")
    made = environment(tmp_path, tmp_path, {"PREFECT_HOME": "y"})
    assert {name for name in made if name.startswith(("AIRFLOW", "PREFECT", "PG", "PYTHON", "ASYNC"))} == {
        "PREFECT_HOME"
    }
    assert made["PATH"].startswith(f"{tmp_path}/bin:")


def test_what_a_peer_started_is_gone_afterwards(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(f'{{child.pid}}\\n')\n"
        "time.sleep(600)\n"
    )
    children = Children(tmp_path, dict(os.environ))
    children.start("parent", [sys.executable, "-c", program])
    try:
        while not Stamps(tmp_path / "pid")._new():
            children.check()
        child = psutil.Process(int((tmp_path / "pid").read_text()))
        assert child.is_running()
    finally:
        children.end()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_one_that_ends_by_itself_is_noticed_with_its_last_words(tmp_path: Path) -> None:
    children = Children(tmp_path, dict(os.environ))
    children.start("peer", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])
    try:
        children.running["peer"].wait(60)
        with pytest.raises(Failed, match="peer ended with 1: no such thing"):
            children.check()
    finally:
        children.end()
    with pytest.raises(Failed, match="once ended with 1: not this time"):
        children.run("once", [sys.executable, "-c", "import sys; sys.exit('not this time')"])
