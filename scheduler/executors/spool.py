"""Outcomes that no daemon has acknowledged, kept as files over the end of a worker."""

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from scheduler.model import Outcome

log = logging.getLogger(__name__)

_decoder: msgspec.json.Decoder[Outcome] = msgspec.json.Decoder(Outcome)


class Spool:
    """A directory of `<token>.json`; several workers may share it, since a report may be repeated."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, outcome: Outcome) -> None:
        """Write durably: the file is there whole or not at all. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(outcome.token)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(outcome))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def tokens(self) -> list[str]:
        """Whose outcomes lie here."""
        try:
            with os.scandir(self._directory) as entries:
                return sorted(entry.name[:-5] for entry in entries if entry.name.endswith(".json"))
        except OSError:
            return []

    def read(self, token: str) -> Outcome | None:
        """None when it is gone or unreadable (then it is put aside as `<token>.bad`)."""
        path = self._path(token)
        try:
            return _decoder.decode(path.read_bytes())
        except OSError:
            return None
        except msgspec.MsgspecError as error:
            log.warning("the spooled outcome %s is unreadable: %s", path, error)
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(".bad"))
            return None

    def drop(self, token: str) -> None:
        """Forget one; it may be gone already."""
        with contextlib.suppress(OSError):
            self._path(token).unlink(missing_ok=True)

    def _path(self, token: str) -> Path:
        assert "/" not in token, token
        return self._directory / f"{token}.json"
