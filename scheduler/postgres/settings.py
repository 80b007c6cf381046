"""What the server is told, as text: postgresql.conf, who may log in, and how."""

from collections.abc import Sequence

ROLE = "asyncsched"
"""The role the daemon works as: it owns its database and is no superuser."""
DATABASE = "asyncsched"
SUPERUSER = "postgres"
"""The bootstrap role; the daemon's own user may also log in as it, for administration."""
LOCAL_FILE = "local.conf"
"""Settings of the user's own, beside the generated files."""
LOCAL_TEXT = "# Settings of your own for the embedded PostgreSQL, read after all others at every start.\n"

# Durable commits are a promise, so they are said on the command line, which no file outranks.
FIXED = (
    "listen_addresses=",
    "fsync=on",
    "full_page_writes=on",
    "unix_socket_permissions=0777",
)


def server_configuration(major: int, libraries: Sequence[str]) -> str:
    """Return the text of postgresql.conf. `libraries` are preloaded."""
    lines = [
        "# Written by asyncsched at every start. Settings of your own belong into local.conf, beside this file.",
        "",
        "# Small: one scheduler, a few dozen sessions, short transactions.",
        "max_connections = 60",
        "shared_buffers = 64MB",
        "max_worker_processes = 4",
        "max_parallel_workers_per_gather = 0",
        "max_logical_replication_workers = 0",
        "jit = off",
        *(["io_method = sync", "autovacuum_worker_slots = 4"] if major >= 18 else []),
        "",
        "# Durable: an answer after COMMIT means it is on the disk.",
        "synchronous_commit = on",
        "",
        "# Sessions whose client is gone, or has stopped in the middle, must not hold locks.",
        "deadlock_timeout = 200ms",
        "client_connection_check_interval = 1s",
        "idle_in_transaction_session_timeout = 30s",
        "",
        "# Tables that work like queues die a little at every transaction.",
        "autovacuum_naptime = 15s",
        "autovacuum_max_workers = 2",
        "",
        "# Commits write their own WAL and there is little to write back: these two need not wake five times a second.",
        "wal_writer_delay = 1s",
        "bgwriter_delay = 1s",
        "bgwriter_lru_maxpages = 500",
        "",
        "timezone = 'UTC'",
        "log_timezone = 'UTC'",
        "lc_messages = 'C'",
        "log_destination = 'stderr'",
        "logging_collector = off",
        "log_checkpoints = off",
        "log_line_prefix = '%m [%p] %q%a '",
    ]
    if libraries:
        lines += ["", f"shared_preload_libraries = '{','.join(libraries)}'"]
    if "pg_stat_statements" in libraries:
        lines += ["pg_stat_statements.max = 1000"]
    return "\n".join([*lines, "", f"include = '{LOCAL_FILE}'", ""])


def access_rules() -> str:
    """Return the text of pg_hba.conf: the kernel says who the client is, and nothing else counts."""
    return "# Written by asyncsched at every start.\nlocal all all peer map=asyncsched\n"


def access_names(user: str) -> str:
    """Return the text of pg_ident.conf: `user` of this machine may be our role, or the superuser."""
    quoted = '"' + user.replace('"', '""') + '"'
    return f"# Written by asyncsched at every start.\nasyncsched {quoted} {ROLE}\nasyncsched {quoted} {SUPERUSER}\n"


def first_statements(major: int) -> str:
    """Return what single-user mode is fed once, one statement a line."""
    grants = [f"GRANT pg_monitor TO {ROLE};"]
    if major >= 15:
        grants.append(f"GRANT SET ON PARAMETER deadlock_timeout TO {ROLE};")
    return "\n".join([f"CREATE ROLE {ROLE} LOGIN;", *grants, f"CREATE DATABASE {DATABASE} OWNER {ROLE};", ""])


def initdb_options(major: int) -> list[str]:
    """Return initdb's options: UTF-8, an order of text that no upgrade of the host changes, checksums."""
    if major >= 17:
        locale = ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    else:
        locale = ["--no-locale"]
    checksums = ["--data-checksums"] if major < 18 else []
    return [
        f"--username={SUPERUSER}",
        "--encoding=UTF8",
        *locale,
        *checksums,
        "--auth=peer",
        "--no-instructions",
        "--no-sync",  # the whole directory is synced once, at the end
    ]
