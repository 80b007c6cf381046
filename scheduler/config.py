"""The configuration: read once at start, then handed down as plain values.

Sources, strongest first: flag, environment, file, default. A key is `section.key`: `[section] key = ...` in
TOML, ASYNCSCHED_SECTION__KEY in the environment. Unknown keys are errors. Units end the name of a key.
"""

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import Attribute, field, frozen

_PREFIX = "ASYNCSCHED_"
# Variables with our prefix that are not keys: they find the daemon or the file, or are set for tasks.
NOT_KEYS = frozenset(
    {
        "ASYNCSCHED_CONFIG",
        "ASYNCSCHED_HOME",
        "ASYNCSCHED_SERVER",
        "ASYNCSCHED_TOKEN",
    }
)


class ConfigError(Exception):
    """A configuration that cannot be used: the daemon exits with 78.

    `key` is the full name of the key (or of the file), `message` says what is wrong and what to do.
    """

    exit_code = 78

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        self.message = message
        super().__init__(f"{key}: {message}")


def _number(
    default: float,
    *,
    least: float = 0,
    most: float = 2**31,
    above: bool = False,
    reloadable: bool = False,
) -> Any:
    """A float within bounds; `above`: `least` itself is not allowed."""

    def check(_instance: object, _attribute: object, value: float) -> None:
        if not (least < value if above else least <= value) or value > most:
            raise ValueError(f"must be {'more than' if above else 'at least'} {least:g} and at most {most:g}")

    return field(default=default, validator=check, metadata={"parse": _to_float, "reloadable": reloadable})


def _count(default: int, *, least: int = 0, most: int = 2**31 - 1, reloadable: bool = False) -> Any:
    """A whole number within bounds."""

    def check(_instance: object, _attribute: object, value: int) -> None:
        if not least <= value <= most:
            raise ValueError(f"must be at least {least} and at most {most}")

    return field(default=default, validator=check, metadata={"parse": _to_int, "reloadable": reloadable})


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("must be a number")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"must be a number, not {value!r}") from None
    if number != number:
        raise ValueError("must be a number")
    return number


def _to_int(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"must be a whole number, not {value!r}")
    return value


def _to_path(value: Any) -> Path:
    if isinstance(value, Path):
        return value.expanduser().absolute()
    if not isinstance(value, str) or not value:
        raise TypeError("must be the path of a file or directory")
    return Path(value).expanduser().absolute()


def _to_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError("must be a text that is not empty")
    return value.strip()


def hide_password(dsn: str) -> str:
    """Return `dsn` with its password, if it has one, replaced by stars."""
    hidden = re.sub(r"(://[^/@:]*):.*@", r"\1:***@", dsn)
    return re.sub(r"(?i)([?&](?:ssl)?password=)[^&]*", r"\1***", hidden)


_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")


def _check_dsn(_instance: object, _attribute: object, value: str) -> None:
    if value != "embedded" and value.split("://")[0] not in _SCHEMES:
        # The value is not shown: where its password stands cannot be known in what is no address.
        raise ValueError('must be "embedded" or an address like postgresql://user@host/database')


@frozen(kw_only=True)
class SchedulerConfig:
    """[scheduler]: the daemon itself."""

    dags_dir: Path | None = field(default=None, metadata={"parse": _to_path})
    """Where DAG files are looked for."""
    parallelism: int = _count(32, least=1, most=10_000)
    """How many attempts run at once, all dags together."""
    shutdown_grace_s: float = _number(30.0, most=86_400, reloadable=True)
    """How long running tasks may go on after SIGTERM."""
    scan_interval_s: float = _number(1.0, least=0.05, most=3600, reloadable=True)
    """How often the DAG directory is looked at."""


@frozen(kw_only=True)
class DatabaseConfig:
    """[database]: the embedded PostgreSQL, or the user's own."""

    dsn: str = field(
        default="embedded",
        validator=_check_dsn,
        repr=hide_password,
        metadata={"parse": _to_text, "secret": True},
    )
    """"embedded", or the address of the user's own server."""
    bindir: Path | None = field(default=None, metadata={"parse": _to_path})
    """Directory of other PostgreSQL programs (postgres, initdb) for the embedded server."""
    pool_size: int = _count(8, least=2, most=200)
    """Connections for transactions."""


@frozen(kw_only=True)
class LoadingConfig:
    """[loading]: parsing of DAG files in child processes."""

    timeout_s: float = _number(30.0, above=True, most=3600, reloadable=True)
    memory_mb: int = _count(1024, least=64, most=1_048_576, reloadable=True)
    parallel: int = _count(2, least=1, most=64)
    """How many files are parsed at once."""


@frozen(kw_only=True)
class WorkerConfig:
    """[worker]: the local executor."""

    slots: int = _count(0, most=10_000)
    """Attempts at once in one worker; 0: as many as `scheduler.parallelism`."""
    warm_parents: int = _count(8, least=1, most=1000)
    """How many DAG file versions stay imported, ready to fork."""
    log_limit_mb: int = _count(100, least=1, most=1_048_576)
    """Longest log of one attempt; the rest is dropped with a marker."""
    result_limit_kb: int = _count(1024, least=1, most=16_384)
    """Largest result of one task, as JSON."""
    kill_grace_s: float = _number(10.0, most=3600)
    """From SIGTERM to SIGKILL of an attempt's process group."""
    orphan_grace_s: float = _number(60.0, most=86_400)
    """How long a worker whose daemon is gone waits for the next one."""
    reuse_attempts: int = _count(1000, least=1, most=1_000_000)
    """A process that attempts share (`isolation="reuse"`) is replaced after so many."""
    reuse_growth_mb: int = _count(256, least=1, most=1_048_576)
    """It is replaced when its peak memory has grown by more."""
    reuse_idle_s: float = _number(30.0, most=86_400)
    """It leaves when there was nothing to do for so long."""


@frozen(kw_only=True)
class PruneConfig:
    """[prune]: how long history is kept."""

    keep_days: float = _number(90.0, above=True, most=36_500, reloadable=True)


@frozen(kw_only=True)
class Config:
    """Everything that can be configured. `origins` says for each key where its value came from."""

    scheduler: SchedulerConfig = field(factory=SchedulerConfig)
    database: DatabaseConfig = field(factory=DatabaseConfig)
    loading: LoadingConfig = field(factory=LoadingConfig)
    worker: WorkerConfig = field(factory=WorkerConfig)
    prune: PruneConfig = field(factory=PruneConfig)
    origins: Mapping[str, str] = field(factory=dict, eq=False, repr=False)

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Yield (key, value, origin) for every key, in order, with secrets hidden."""
        for key, (section, attribute) in KEYS.items():
            value = getattr(getattr(self, section), attribute.name)
            if key in _SECRETS:
                value = hide_password(value)
            yield key, value, self.origins.get(key, "default")


_SECTIONS: dict[str, type] = {
    "scheduler": SchedulerConfig,
    "database": DatabaseConfig,
    "loading": LoadingConfig,
    "worker": WorkerConfig,
    "prune": PruneConfig,
}

KEYS: dict[str, tuple[str, "Attribute[Any]"]] = {
    f"{section}.{attribute.name}": (section, attribute)
    for section, kind in _SECTIONS.items()
    for attribute in attrs.fields(kind)
}
"""Every key there is: full name to section and attribute."""

_SECRETS = frozenset(key for key, (_, attribute) in KEYS.items() if attribute.metadata.get("secret"))
_FILE_KEYS = frozenset(f"{key}_file" for key in _SECRETS)
"""Keys that name a file which holds a secret."""


def load_config(
    flags: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Config:
    """Read the configuration.

    `flags` maps full key names to values; a value of None means "not given". `env` is the environment
    (default: this process's). `file` is what --config named; without it the first file found of
    $ASYNCSCHED_CONFIG, $CONFIGURATION_DIRECTORY/asyncsched.toml, /etc/asyncsched/asyncsched.toml and the
    user's configuration directory is read. Raises ConfigError.
    """
    env = os.environ if env is None else env
    values: dict[str, tuple[Any, str]] = {}
    # From weak to strong; a later source overwrites.
    path = _find_file(file, env)
    if path is not None:
        values.update(_from_file(path))
    values.update(_from_environment(env))
    values.update(_from_credentials(env))
    values.update(_from_flags(flags or {}))
    return _build(values)


def _find_file(file: Path | None, env: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    if named := env.get("ASYNCSCHED_CONFIG"):
        return Path(named)
    candidates = [Path("/etc/asyncsched/asyncsched.toml")]
    if directory := env.get("CONFIGURATION_DIRECTORY", "").split(":")[0]:
        candidates.insert(0, Path(directory) / "asyncsched.toml")
    if env.get("XDG_CONFIG_HOME", "").startswith("/"):
        candidates.append(Path(env["XDG_CONFIG_HOME"]) / "asyncsched" / "asyncsched.toml")
    elif env.get("HOME"):
        candidates.append(Path(env["HOME"]) / ".config" / "asyncsched" / "asyncsched.toml")
    for candidate in candidates:
        # A file that exists and may not be read is an error in _from_file, not a reason to look further.
        try:
            candidate.stat()
        except OSError:
            continue
        return candidate
    return None


def _from_file(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        with path.open("rb") as stream:
            readable_by_others = bool(os.fstat(stream.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO))
            document = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not valid TOML: {error}") from error
    found: dict[str, tuple[Any, str]] = {}
    for section, content in document.items():
        if section not in _SECTIONS:
            raise ConfigError(section, f"unknown section in {path}{_suggest(section, _SECTIONS)}")
        if not isinstance(content, dict):
            raise ConfigError(section, f"must be a section, written [{section}], in {path}")
        for name, value in content.items():
            key = f"{section}.{name}"
            if key in _FILE_KEYS:
                found[key.removesuffix("_file")] = (_read_secret(key, value), f"{key} in {path}")
                continue
            if key not in KEYS:
                raise ConfigError(key, f"unknown key in {path}{_suggest(key, KEYS)}")
            if _holds_password(key, value) and readable_by_others:
                raise ConfigError(
                    key, f"holds a password and {path} can be read by others: chmod 600 it, or use {key}_file"
                )
            found.setdefault(key, (value, str(path)))
    return found


def _from_environment(env: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    names = {_variable(key): key for key in [*KEYS, *_FILE_KEYS]}
    for variable, value in env.items():
        if not variable.startswith(_PREFIX) or variable in NOT_KEYS:
            continue
        if variable not in names:
            raise ConfigError(variable, f"unknown variable in the environment{_suggest(variable, [*names, *NOT_KEYS])}")
        key = names[variable]
        if key in _FILE_KEYS:
            found.setdefault(key.removesuffix("_file"), (_read_secret(key, value), variable))
        else:
            found[key] = (value, variable)
    return found


def _from_credentials(env: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Credentials that systemd passed: files named like the key."""
    directory = env.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    found: dict[str, tuple[Any, str]] = {}
    for file_key in _FILE_KEYS:
        key = file_key.removesuffix("_file")
        path = Path(directory) / key
        if path.exists():
            found[key] = (_read_secret(key, str(path)), f"credential {key}")
    return found


def _from_flags(flags: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for key, value in flags.items():
        if value is None:
            continue
        if key not in KEYS:
            raise ConfigError(key, f"unknown key{_suggest(key, KEYS)}")
        if _holds_password(key, value):
            raise ConfigError(
                key,
                "a password in a flag can be read by every user of this machine: "
                f"use {_variable(key)}, or a file named by {key}_file",
            )
        found[key] = (value, "flag")
    return found


def _build(values: Mapping[str, tuple[Any, str]]) -> Config:
    sections: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for key, (value, origin) in values.items():
        section, attribute = KEYS[key]
        parse: Callable[[Any], Any] = attribute.metadata["parse"]
        try:
            parsed = parse(value)
            if attribute.validator is not None:
                attribute.validator(None, attribute, parsed)
        except (TypeError, ValueError) as error:
            raise ConfigError(key, f"{error} (from {origin})") from None
        sections[section][attribute.name] = parsed
    return Config(
        **{section: _SECTIONS[section](**content) for section, content in sections.items()},
        origins={key: origin for key, (_, origin) in values.items()},
    )


def _variable(key: str) -> str:
    return _PREFIX + key.upper().replace(".", "__")


def _holds_password(key: str, value: Any) -> bool:
    return key in _SECRETS and isinstance(value, str) and hide_password(value) != value


def _read_secret(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(key, "must be the path of a file")
    try:
        return Path(value).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(key, f"cannot read {value}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(key, f"{value} is not a text file") from None


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
