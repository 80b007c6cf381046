"""How big everything is. Each is an option of the command line: `--size NAME=VALUE`."""

from attrs import define, fields


@define(kw_only=True)
class Sizes:
    """Task instances, dags or seconds, as each says."""

    history_small: int = 100_000
    """Finished task instances in the smaller history."""
    history_large: int = 1_000_000
    """The same in the larger one."""
    history_rounds: int = 5
    """Rounds on the histories at least, however few the repetitions: a single ratio of CPU is off by a third easily."""
    fan: int = 2_000
    """The work that is done on each history: a fan-out of so many,"""
    chain: int = 100
    """a chain of so many,"""
    runs: int = 100
    """and so many runs of ten."""
    dags_few: int = 10
    """Dags that are loaded and have nothing due."""
    dags_some: int = 1_000
    dags_many: int = 5_000
    dags_per_file: int = 10
    idle_s: int = 20
    """How long an idle daemon is watched."""
    large: int = 10_000
    """Tasks of one large dag, instances of one flat run; compared with a tenth of it."""
    fan_in: int = 5_000
    """Tasks that one task waits for; compared with a tenth of it."""
    due: int = 1_000
    """Dags that are due in the same second."""
    snapshot_s: int = 60
    """How long a stranger's snapshot is held open while work goes on; 600 shows all of it."""

    @classmethod
    def quick(cls) -> "Sizes":
        """To see that everything works."""
        return cls(
            history_small=2_000,
            history_large=20_000,
            history_rounds=1,
            fan=100,
            chain=20,
            runs=10,
            dags_few=5,
            dags_some=20,
            dags_many=40,
            idle_s=2,
            large=200,
            fan_in=100,
            due=20,
            snapshot_s=4,
        )

    def set(self, text: str) -> None:
        """Take over one `NAME=VALUE`. Raises ValueError."""
        name, _, value = text.partition("=")
        if name not in NAMES:
            raise ValueError(f"no size is called {name!r}: there are {', '.join(NAMES)}")
        number = int(value.replace("_", ""))
        if number < 1:
            raise ValueError(f"{name} must be at least 1")
        setattr(self, name, number)


NAMES = tuple(one.name for one in fields(Sizes))
