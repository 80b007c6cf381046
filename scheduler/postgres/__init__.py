"""The embedded PostgreSQL: programs found, data directory made once, one server under our supervision.

errors.py     PostgresError
account.py    as whom the server runs
programs.py   where its programs are
settings.py   what it is told: configuration files as text (pure)
cluster.py    the data directory, made so that a crash leaves none or a whole one
strays.py     servers that a killed daemon left behind
server.py     `embedded`: all of it together
"""

from scheduler.postgres.errors import PostgresError, PostgresInUse
from scheduler.postgres.server import embedded

__all__ = ["PostgresError", "PostgresInUse", "embedded"]
