"""Which DAG files there are, and whether they have changed since."""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

Stamp: TypeAlias = tuple[int, int, int]
"""Modification time in ns, size in bytes, inode: a changed file differs in at least one."""

_log = logging.getLogger(__name__)
_told: set[str] = set()


def scan(dags_dir: Path) -> dict[str, Stamp]:
    """All `*.py` files below the folder, by their path relative to it.

    Left out: what begins with a dot, `__pycache__`, what is not a regular file, and names that are not UTF-8.
    Links are followed, each folder once. Raises OSError if the folder itself cannot be read: its files are not gone
    because a disk is.
    """
    found: dict[str, Stamp] = {}
    top = os.stat(dags_dir)
    _walk(os.fspath(dags_dir), "", found, {(top.st_dev, top.st_ino)})
    return found


def _walk(folder: str, prefix: str, found: dict[str, Stamp], seen: set[tuple[int, int]]) -> None:
    folders = []
    for entry in _entries(folder, must_exist=not prefix):
        try:
            status = entry.stat()
        except OSError:
            continue  # a link to nowhere, or gone since
        if stat.S_ISDIR(status.st_mode):
            key = (status.st_dev, status.st_ino)
            if entry.name != "__pycache__" and key not in seen:
                seen.add(key)
                folders.append(entry)
        elif entry.name.endswith(".py") and stat.S_ISREG(status.st_mode):
            found[prefix + entry.name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    for entry in folders:
        _walk(entry.path, f"{prefix}{entry.name}/", found, seen)


def _entries(folder: str, *, must_exist: bool) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if must_exist:
            raise
        _tell_once(folder, f"is left out: {error.strerror}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            _tell_once(entry.path, "is left out: its name is not UTF-8")
            continue
        yield entry


def _tell_once(path: str, what: str) -> None:
    if path not in _told:
        _told.add(path)
        _log.warning("%s %s", ascii(path), what)
