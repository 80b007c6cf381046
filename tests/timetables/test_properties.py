"""What holds for all cron lines in all zones."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import Catchup, Schedule, ScheduleKind
from scheduler.timetables import plan_slots
from scheduler.timetables.cron import Cron
from scheduler.timetables.zones import offset_at, stretches, zone

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Asia/Gaza",
    "Antarctica/Troll",  # two hours
]


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> str:
    kind = draw(st.sampled_from(["*", "one", "list", "range", "step"]))
    if kind == "one":
        return str(draw(st.integers(low, high)))
    if kind == "list":
        return ",".join(map(str, draw(st.lists(st.integers(low, high), min_size=1, max_size=4))))
    if kind == "range":
        start, end = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
        return f"{start}-{end}"
    if kind == "step":
        return f"*/{draw(st.integers(1, high))}"
    return "*"


lines = st.builds("{} {} {} {} {}".format, fields(0, 59), fields(0, 23), fields(1, 28), fields(1, 12), fields(0, 6))
instants = st.datetimes(datetime(1995, 1, 1), datetime(2040, 1, 1)).map(lambda wall: wall.replace(tzinfo=UTC))
# Clocks are changed on few days, so half of the instants lie on the day before such a day.
turns = st.sampled_from(
    [
        datetime(2026, 3, 28, 12, tzinfo=UTC),
        datetime(2026, 10, 24, 12, tzinfo=UTC),
        datetime(2026, 10, 3, 6, tzinfo=UTC),
        datetime(2010, 11, 6, 20, tzinfo=UTC),
        datetime(2011, 12, 29, 6, tzinfo=UTC),
        datetime(2018, 11, 3, 20, tzinfo=UTC),
        datetime(2026, 2, 14, 20, tzinfo=UTC),
    ]
)


@given(lines, st.sampled_from(ZONES), instants | turns)
@settings(deadline=None, max_examples=200)
def test_slots_increase_strictly_and_are_the_same_from_either_end(line: str, name: str, after: datetime) -> None:
    cron = Cron(line, name)
    until = after + timedelta(days=3)
    forwards = list(islice(cron.forwards(after, until), 3000))
    assert all(one < two for one, two in pairwise(forwards))
    assert all(after < slot <= until and slot.microsecond == 0 for slot in forwards)
    if len(forwards) < 3000:
        assert forwards == list(cron.backwards(until, after))[::-1]


@given(lines, st.sampled_from(ZONES), instants | turns, st.integers(0, 2 * 86400))
@settings(deadline=None, max_examples=200)
def test_looking_from_any_instant_between_gives_the_same_slots(line: str, name: str, after: datetime, s: int) -> None:
    cron = Cron(line, name)
    until = after + timedelta(days=2)
    between = after + timedelta(seconds=s)
    whole = [slot for slot in islice(cron.forwards(after, until), 3000) if slot > between]
    assert whole == list(islice(cron.forwards(between, until), len(whole)))


@given(lines, st.sampled_from(ZONES), instants | turns)
@settings(deadline=None, max_examples=200)
def test_a_slot_shows_a_matching_wall_time_or_is_the_end_of_a_gap(line: str, name: str, after: datetime) -> None:
    cron = Cron(line, name)
    where = zone(name)
    for slot in islice(cron.forwards(after, after + timedelta(days=40)), 50):
        wall = slot.astimezone(where)
        before = (slot - timedelta(seconds=1)).astimezone(where)
        was_gap = wall.replace(tzinfo=None) - before.replace(tzinfo=None) > timedelta(seconds=1)
        assert was_gap or _matches(line, wall.replace(tzinfo=None))


def _matches(line: str, wall: datetime) -> bool:
    return (
        next(Cron(line, "UTC").forwards(wall.replace(tzinfo=UTC) - timedelta(seconds=1))).replace(tzinfo=None) == wall
    )


@given(lines, instants)
@settings(deadline=None, max_examples=200)
def test_without_clock_changes_we_agree_with_cronsim(line: str, after: datetime) -> None:
    day, weekday = line.split()[2::2]
    if "*" not in (day, weekday) and (day + weekday).find("*") >= 0:
        return  # here we differ on purpose
    wanted = [slot.replace(tzinfo=UTC) for slot in islice(CronSim(line, after.replace(tzinfo=None)), 20)]
    assert list(islice(Cron(line, "UTC").forwards(after), 20)) == wanted


@given(lines, st.sampled_from(ZONES), turns, st.lists(st.integers(1, 200_000), min_size=1, max_size=8))
@settings(deadline=None, max_examples=150)
def test_planning_in_any_steps_handles_every_slot_once(line: str, name: str, start: datetime, steps: list[int]) -> None:
    schedule = Schedule(kind=ScheduleKind.CRON, text=line, cron=line, timezone=name)
    cursor, now, seen = None, start, []
    for step in steps:
        now += timedelta(seconds=step)
        plan = plan_slots(
            schedule,
            cursor=cursor,
            start_date=start,
            end_date=None,
            catchup=Catchup.ALL,
            now=now,
            first_seen=start,
            at_most=10_000,
        )
        assert plan.dropped == 0
        assert plan.next_due is None or plan.next_due > now
        seen += [slot.run_after for slot in plan.slots]
        cursor = plan.cursor
    assert seen == list(Cron(line, name).forwards(start - timedelta(seconds=1), now))


@given(st.sampled_from(ZONES), instants | turns, st.integers(1, 10**6))
@settings(deadline=None, max_examples=100)
def test_stretches_cover_the_time_with_the_right_offsets(name: str, start: datetime, length: int) -> None:
    where = zone(name)
    start = start.replace(microsecond=0)
    end = start + timedelta(seconds=length)
    found = list(stretches(where, start, end))
    assert found[0].start == start
    assert found[-1].end == end
    for one, two in pairwise(found):
        assert one.end == two.start
        assert one.offset == two.before
    for stretch in found:
        for instant in (stretch.start, stretch.end - timedelta(seconds=1)):
            assert offset_at(where, instant) == stretch.offset
