"""What counts as a DAG file, and what as a change."""

import os
from pathlib import Path

import pytest

from scheduler.loading.scan import scan


def test_python_files_are_found_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("x.py", "a/y.py", "a/b/z.py"):
        (tmp_path / name).touch()
    assert list(scan(tmp_path)) == ["x.py", "a/y.py", "a/b/z.py"]


def test_what_is_not_a_dag_file_is_left_out(tmp_path: Path) -> None:
    for folder in ("__pycache__", ".git", "folder.py"):
        (tmp_path / folder).mkdir()
    for name in ("notes.txt", ".hidden.py", "__pycache__/x.py", ".git/x.py", "x.pyc"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "broken.py").symlink_to("nowhere")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py"))).touch()
    assert scan(tmp_path) == {}


def test_a_link_that_leads_back_ends_the_walk(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert list(scan(tmp_path)) == ["a/x.py"]


def test_a_change_of_content_changes_the_stamp_even_in_the_same_instant(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("a = 1")
    before = scan(tmp_path)
    assert scan(tmp_path) == before
    times = file.stat()
    new = tmp_path / "new"
    new.write_text("a = 2")
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.replace(file)
    assert scan(tmp_path) != before


def test_a_folder_that_cannot_be_read_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "gone")
