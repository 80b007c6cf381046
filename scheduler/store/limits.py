"""How long anything at the database may take.

Time-outs nest, each bounded by the next (milliseconds where PostgreSQL counts them):
deadlock 200 ms < lock 1 s < statement 2 s < driver command 2.5 s < transaction 3 s < (server, 17 and later)
transaction 8 s < idle in transaction 30 s. A frozen server is left after at most 3 + 2.5 + 2 s.
"""

from attrs import frozen


@frozen(kw_only=True)
class Limits:
    """Seconds; see the module's docstring for how they nest."""

    deadlock: float = 0.2
    lock: float = 1.0
    statement: float = 2.0
    command: float = 2.5
    transaction: float = 3.0
    server_transaction: float = 8.0
    idle_in_transaction: float = 30.0
    connect: float = 3.0
    pool: float = 1.0
