"""Extract, transform, load: the world's time zones, from the public tz database into a table and a report.

The data come with the package tzdata, which the scheduler needs anyway, so this runs without a network. It makes
`time_zones.sqlite` and `time_zones.md` in $EXAMPLES_OUT, or else in `asyncsched-examples` in the folder
for temporary files.
"""

import os
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

from scheduler import TaskGroup, dag, get_context, task

OUT = Path(os.environ.get("EXAMPLES_OUT") or Path(tempfile.gettempdir()) / "asyncsched-examples")


def read_table(name: str) -> list[list[str]]:
    """The rows of one of the database's tab-separated tables."""
    text = files("tzdata").joinpath("zoneinfo", name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]


def degrees(text: str) -> float:
    """+5230 or +523015, the notation of ISO 6709, as degrees."""
    digits = text[1:]
    width = len(digits) - (2 if len(digits) in (4, 5) else 4)
    value = int(digits[:width]) + int(digits[width : width + 2]) / 60 + int(digits[width + 2 :] or 0) / 3600
    return round(-value if text[0] == "-" else value, 4)


def clock_changes(zone: ZoneInfo, year: int) -> list[str]:
    """The days of a year on which the clocks of a zone are changed."""
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(367)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    return [day.date().isoformat() for day, (now, then) in zip(days, pairwise(offsets), strict=False) if now != then]


@dag(schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False, tags=["example", "etl"])
def time_zones():
    """The world's time zones as a table and a report, from the tz database."""
    with TaskGroup("extract"):

        @task
        def countries() -> dict:
            names = {code: name for code, name, *_ in read_table("iso3166.tab")}
            print(f"read {len(names)} countries")
            return names

        @task
        def zones() -> list:
            rows = []
            for codes, place, name, *_ in read_table("zone1970.tab"):
                split = max(place.rfind("+"), place.rfind("-"))
                rows.append(
                    {
                        "zone": name,
                        "countries": codes.split(","),
                        "latitude": degrees(place[:split]),
                        "longitude": degrees(place[split:]),
                    }
                )
            print(f"read {len(rows)} zones")
            return rows

        names, found = countries(), zones()

    @task(retries=2, retry_delay=timedelta(seconds=5), execution_timeout=timedelta(minutes=1))
    def transform(rows: list, names: dict) -> list:
        """Add what the rules of each zone say about this year."""
        context = get_context()
        year = (context.logical_date or context.run_after).year
        for row in rows:
            zone = ZoneInfo(row["zone"])
            winter = datetime(year, 1, 1, tzinfo=UTC).astimezone(zone).utcoffset()
            row["country_names"] = [names[code] for code in row.pop("countries")]
            row["january_offset_minutes"] = int(winter.total_seconds() // 60)
            row["clock_changes"] = clock_changes(zone, year)
        return rows

    @task
    def load(rows: list) -> str:
        """Into SQLite: beside the old table first, so that whoever reads it never sees half of one."""
        OUT.mkdir(parents=True, exist_ok=True)
        path = OUT / "time_zones.sqlite"
        new = path.with_suffix(f".{os.getpid()}.new")
        new.unlink(missing_ok=True)
        with closing(sqlite3.connect(new)) as database, database:
            database.execute(
                "CREATE TABLE time_zone (name TEXT PRIMARY KEY, country TEXT, latitude REAL, longitude REAL,"
                " january_offset_minutes INTEGER, clock_changes INTEGER)"
            )
            database.executemany(
                "INSERT INTO time_zone VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        row["zone"],
                        row["country_names"][0],
                        row["latitude"],
                        row["longitude"],
                        row["january_offset_minutes"],
                        len(row["clock_changes"]),
                    )
                    for row in rows
                ],
            )
        new.replace(path)
        print(f"{len(rows)} rows in {path}")
        return str(path)

    @task
    def check(path: str, rows: list) -> int:
        """Look at what is really in the table before anybody relies on it."""
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            (count,) = database.execute("SELECT count(*) FROM time_zone").fetchone()
            (odd,) = database.execute(
                "SELECT count(*) FROM time_zone WHERE abs(latitude) > 90 OR abs(longitude) > 180"
                " OR abs(january_offset_minutes) > 14 * 60"
            ).fetchone()
        if count != len(rows) or odd:
            raise ValueError(f"{count} rows, expected {len(rows)}; {odd} of them are impossible")
        return count

    @task
    def report(rows: list, count: int) -> str:
        """Markdown for people."""
        changing = [row for row in rows if row["clock_changes"]]
        uneven = [row for row in rows if row["january_offset_minutes"] % 60]
        by_country = Counter(row["country_names"][0] for row in rows)
        southern = sum(1 for row in changing if row["latitude"] < 0)
        lines = [
            "# Time zones of the world",
            "",
            f"- zones whose clocks have agreed since 1970: **{count}**",
            f"- with clock changes this year: **{len(changing)}**, {southern} of them south of the equator",
            f"- not a whole number of hours from UTC: **{len(uneven)}**"
            f" ({', '.join(sorted(row['zone'] for row in uneven))})",
            "",
            "| country | zones |",
            "|---|---|",
            *(f"| {name} | {number} |" for name, number in by_country.most_common(10)),
            "",
        ]
        path = OUT / "time_zones.md"
        path.write_text("\n".join(lines), encoding="utf-8")
        print("\n".join(lines))
        return str(path)

    rows = transform(found, names)
    report(rows, check(load(rows), rows))


time_zones()
