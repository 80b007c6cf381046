"""Which slots are due, which missed ones are made up, and when to look again."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import Catchup, Schedule, ScheduleKind
from scheduler.timetables import SlotPlan, infer_interval, plan_slots, upcoming, validate

DAY = datetime(2026, 1, 1, tzinfo=UTC)
HOURLY = Schedule(kind=ScheduleKind.CRON, text="@hourly", cron="0 * * * *")
TEN_MINUTES = Schedule(kind=ScheduleKind.EVERY, text="every 0:10:00", seconds=600.0)
ONCE = Schedule(kind=ScheduleKind.ONCE, text="@once")
CONTINUOUS = Schedule(kind=ScheduleKind.CONTINUOUS, text="@continuous")
NEVER = Schedule(kind=ScheduleKind.NEVER, text="never")


def at(text: str) -> datetime:
    hours, minutes, *seconds = (int(part) for part in text.split(":"))
    return DAY + timedelta(hours=hours, minutes=minutes, seconds=seconds[0] if seconds else 0)


def plan(
    schedule: Schedule,
    now: str,
    *,
    cursor: str | None = None,
    start: str | None = None,
    end: str | None = None,
    catchup: Catchup = Catchup.LAST,
    seen: str = "0:00",
    at_most: int = 100,
    last_end: str | None = None,
) -> SlotPlan:
    found = plan_slots(
        schedule,
        cursor=None if cursor is None else at(cursor),
        start_date=None if start is None else at(start),
        end_date=None if end is None else at(end),
        catchup=catchup,
        now=at(now),
        first_seen=at(seen),
        at_most=at_most,
        last_end=None if last_end is None else at(last_end),
    )
    for slot in found.slots:
        assert slot.run_after == slot.logical_date == slot.data_interval_end
        assert slot.run_after <= at(now)
    assert found.next_due is None or found.next_due > at(now) or schedule is CONTINUOUS
    return found


def times(found: SlotPlan) -> list[str]:
    return [f"{slot.run_after:%H:%M}" for slot in found.slots]


# --- cron ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("catchup", "expected"),
    [
        (Catchup.NONE, []),
        (Catchup.LAST, ["10:00"]),
        (Catchup.ALL, ["07:00", "08:00", "09:00", "10:00"]),
    ],
)
def test_hourly_back_at_ten_past_after_six_was_handled(catchup: Catchup, expected: list[str]) -> None:
    found = plan(HOURLY, "10:07", cursor="6:00", catchup=catchup)
    assert times(found) == expected
    assert found.cursor == at("10:00")
    assert found.next_due == at("11:00")


@pytest.mark.parametrize("catchup", Catchup)
def test_a_slot_that_is_looked_at_a_little_late_was_not_missed(catchup: Catchup) -> None:
    assert times(plan(HOURLY, "7:00:05", cursor="6:00", catchup=catchup)) == ["07:00"]


@pytest.mark.parametrize("catchup", Catchup)
def test_without_start_date_the_first_slot_is_the_first_after_loading(catchup: Catchup) -> None:
    first = plan(HOURLY, "5:30", seen="5:30", catchup=catchup)
    assert (times(first), first.cursor, first.next_due) == ([], None, at("6:00"))
    assert times(plan(HOURLY, "6:00", seen="5:30", catchup=catchup)) == ["06:00"]


@pytest.mark.parametrize(
    ("catchup", "expected"),
    [(Catchup.NONE, []), (Catchup.LAST, ["05:00"]), (Catchup.ALL, ["03:00", "04:00", "05:00"])],
)
def test_a_start_date_in_the_past_is_made_up_as_catchup_says(catchup: Catchup, expected: list[str]) -> None:
    found = plan(HOURLY, "5:30", start="3:00", seen="5:30", catchup=catchup)
    assert times(found) == expected
    assert found.next_due == at("6:00")


def test_start_and_end_date_are_slots_themselves() -> None:
    assert times(plan(HOURLY, "9:00", start="3:00", end="5:00", catchup=Catchup.ALL)) == ["03:00", "04:00", "05:00"]
    assert plan(HOURLY, "9:00", cursor="5:00", end="5:00").next_due is None
    assert plan(HOURLY, "4:30", cursor="4:00", end="5:00").next_due == at("5:00")
    assert plan(HOURLY, "1:00", start="3:00").next_due == at("3:00")


def test_a_start_date_moved_beyond_the_cursor_holds() -> None:
    found = plan(HOURLY, "6:30", cursor="3:00", start="5:00", catchup=Catchup.ALL)
    assert times(found) == ["05:00", "06:00"]


def test_beyond_the_cap_the_oldest_are_dropped_and_counted_and_the_schedule_goes_on() -> None:
    found = plan(HOURLY, "10:07", cursor="0:00", catchup=Catchup.ALL, at_most=3)
    assert times(found) == ["08:00", "09:00", "10:00"]
    assert found.dropped == 7
    assert found.cursor == at("10:00")
    assert times(plan(HOURLY, "11:00", cursor="10:00", catchup=Catchup.ALL, at_most=3)) == ["11:00"]


def test_years_of_missed_minutes_are_counted_only_so_far() -> None:
    minutely = Schedule(kind=ScheduleKind.CRON, text="", cron="* * * * *", timezone="Europe/Berlin")
    found = plan_slots(
        minutely,
        cursor=DAY - timedelta(days=3650),
        start_date=None,
        end_date=None,
        catchup=Catchup.ALL,
        now=DAY,
        first_seen=DAY,
    )
    assert (len(found.slots), found.dropped) == (100, 10_000)


@pytest.mark.parametrize("schedule", [HOURLY, TEN_MINUTES, ONCE])
def test_a_clock_that_goes_back_makes_nothing_twice(schedule: Schedule) -> None:
    found = plan(schedule, "5:00", cursor="6:00", catchup=Catchup.ALL)
    assert found.slots == ()
    assert found.cursor == at("6:00")
    assert found.next_due is None or found.next_due > at("6:00")


def test_instants_in_other_zones_are_the_same_instants() -> None:
    tokyo = timezone(timedelta(hours=9))
    found = plan_slots(
        HOURLY,
        cursor=at("6:00").astimezone(tokyo),
        start_date=at("3:00").astimezone(tokyo),
        end_date=None,
        catchup=Catchup.LAST,
        now=at("7:30").astimezone(tokyo),
        first_seen=at("0:00").astimezone(tokyo),
    )
    assert times(found) == ["07:00"]
    assert found.slots[0].run_after.tzinfo is UTC


# --- every --------------------------------------------------------------------------------------------------


def test_an_interval_starts_at_its_start_date_or_when_it_is_first_loaded() -> None:
    assert times(plan(TEN_MINUTES, "5:03", seen="5:03")) == ["05:03"]
    waiting = plan(TEN_MINUTES, "5:03", start="6:00", seen="5:03")
    assert (times(waiting), waiting.next_due) == ([], at("6:00"))
    assert times(plan(TEN_MINUTES, "6:00:01", start="6:00", seen="5:03")) == ["06:00"]


def test_an_interval_goes_on_from_the_slot_before_and_does_not_drift() -> None:
    found = plan(TEN_MINUTES, "5:13:20", cursor="5:03")
    assert times(found) == ["05:13"]
    assert found.next_due == at("5:23")


def test_a_missed_interval_is_made_up_now_and_goes_on_from_there() -> None:
    found = plan(TEN_MINUTES, "7:07", cursor="5:03")
    assert times(found) == ["07:07"]
    assert found.next_due == at("7:17")
    in_the_past = plan(TEN_MINUTES, "5:05", start="5:03", seen="5:05")
    assert times(in_the_past) == ["05:05"]


def test_a_missed_interval_is_made_up_whole_with_catchup() -> None:
    found = plan(TEN_MINUTES, "5:37", cursor="5:03", catchup=Catchup.ALL)
    assert times(found) == ["05:13", "05:23", "05:33"]
    assert found.next_due == at("5:43")
    capped = plan(TEN_MINUTES, "5:37", cursor="5:03", catchup=Catchup.ALL, at_most=2)
    assert (times(capped), capped.dropped) == (["05:23", "05:33"], 1)


def test_a_missed_interval_is_left_out_without_catchup() -> None:
    found = plan(TEN_MINUTES, "5:37", cursor="5:03", catchup=Catchup.NONE)
    assert (times(found), found.next_due) == ([], at("5:43"))
    started = plan(TEN_MINUTES, "5:37", start="5:03", seen="5:37", catchup=Catchup.NONE)
    assert (times(started), started.next_due) == ([], at("5:43"))


def test_an_interval_ends_with_its_dag() -> None:
    assert plan(TEN_MINUTES, "5:04", seen="5:03", end="5:10").next_due is None
    late = plan(TEN_MINUTES, "9:00", cursor="5:03", end="5:25")
    assert (times(late), late.next_due) == (["05:23"], None)


def test_an_interval_of_a_second_that_is_a_little_behind_runs_once_not_twice() -> None:
    secondly = Schedule(kind=ScheduleKind.EVERY, text="", seconds=1.0)
    found = plan(secondly, "5:00:05", cursor="5:00")
    assert len(found.slots) == 1
    assert found.next_due == at("5:00:06")


def test_the_longest_interval_has_no_next_slot_instead_of_an_error() -> None:
    endless = Schedule(kind=ScheduleKind.EVERY, text="", seconds=8000 * 366 * 86400.0)
    assert plan(endless, "5:00", seen="5:00").next_due is None
    assert plan(endless, "5:00", cursor="4:00").next_due is None


@given(st.integers(1, 10**6), st.lists(st.floats(0, 20), min_size=1, max_size=10))
@settings(deadline=None, max_examples=100)
def test_with_catchup_an_interval_is_a_grid_however_often_one_looks(seconds: int, steps: list[float]) -> None:
    schedule = Schedule(kind=ScheduleKind.EVERY, text="", seconds=float(seconds))
    cursor, now, slots = None, DAY, []
    for step in steps:
        now += timedelta(seconds=step * seconds)
        found = plan_slots(
            schedule,
            cursor=cursor,
            start_date=DAY,
            end_date=None,
            catchup=Catchup.ALL,
            now=now,
            first_seen=DAY,
        )
        slots += [slot.run_after for slot in found.slots]
        cursor = found.cursor
        assert found.next_due is not None
        assert found.next_due > now
    assert slots == [DAY + i * timedelta(seconds=seconds) for i in range((now - DAY) // timedelta(seconds=seconds) + 1)]


# --- the others ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catchup", Catchup)
def test_once_is_once_whatever_catchup_says(catchup: Catchup) -> None:
    found = plan(ONCE, "5:30", seen="5:30", catchup=catchup)
    assert (times(found), found.next_due) == (["05:30"], None)
    again = plan(ONCE, "9:00", cursor="5:30", catchup=catchup)
    assert (times(again), again.next_due) == ([], None)
    assert times(plan(ONCE, "5:30", start="3:00", seen="5:30", catchup=catchup)) == ["03:00"]


def test_once_waits_for_its_start_date_and_not_beyond_its_end_date() -> None:
    assert plan(ONCE, "5:30", start="6:00").next_due == at("6:00")
    assert plan(ONCE, "5:30", start="4:00", end="3:00").slots == ()


def test_continuous_runs_now_with_everything_since_the_previous_run() -> None:
    (first,) = plan(CONTINUOUS, "5:30", start="3:00").slots
    assert (first.data_interval_start, first.data_interval_end) == (at("3:00"), at("5:30"))
    (second,) = plan(CONTINUOUS, "6:00", cursor="5:30", last_end="5:59").slots
    assert (second.data_interval_start, second.data_interval_end) == (at("5:59"), at("6:00"))
    assert plan(CONTINUOUS, "5:30", cursor="5:30").slots == ()
    assert plan(CONTINUOUS, "2:00", start="3:00").next_due == at("3:00")
    assert plan(CONTINUOUS, "5:30", end="5:00").slots == ()


def test_never_is_never() -> None:
    assert plan(NEVER, "5:30") == SlotPlan(slots=(), cursor=None, next_due=None, dropped=0)


@pytest.mark.parametrize("schedule", [HOURLY, TEN_MINUTES, ONCE, CONTINUOUS, NEVER])
def test_a_manual_run_has_an_empty_interval_at_its_date(schedule: Schedule) -> None:
    assert infer_interval(schedule, at("5:30").astimezone(timezone(timedelta(hours=2)))) == (at("5:30"), at("5:30"))


# --- for people ---------------------------------------------------------------------------------------------


def show(schedule: Schedule, **options: str | int) -> list[str]:
    dates = {name: at(str(value)) for name, value in options.items() if name != "count"}
    slots = upcoming(
        schedule,
        after=dates["after"],
        start_date=dates.get("start"),
        end_date=dates.get("end"),
        cursor=dates.get("cursor"),
        count=int(options.get("count", 3)),
    )
    return [f"{slot.run_after:%H:%M}" for slot in slots]


def test_upcoming_slots() -> None:
    assert show(HOURLY, after="5:30") == ["06:00", "07:00", "08:00"]
    assert show(HOURLY, after="5:30", start="8:00", end="9:00") == ["08:00", "09:00"]
    assert show(TEN_MINUTES, after="5:30") == ["05:40", "05:50", "06:00"]
    assert show(TEN_MINUTES, after="5:30", cursor="5:27", count=2) == ["05:37", "05:47"]
    assert show(TEN_MINUTES, after="5:30", start="7:00", count=2) == ["07:00", "07:10"]
    assert show(ONCE, after="5:30", start="7:00") == ["07:00"]
    assert show(ONCE, after="5:30", start="4:00") == []
    assert show(CONTINUOUS, after="5:30") == ["05:30"]
    assert show(NEVER, after="5:30") == []


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.5, float("nan"), float("inf")])
def test_an_interval_of_less_than_a_second_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="1 second or longer"):
        validate(Schedule(kind=ScheduleKind.EVERY, text="", seconds=seconds))


@pytest.mark.parametrize("schedule", [HOURLY, TEN_MINUTES, ONCE, CONTINUOUS, NEVER])
def test_good_schedules_are_accepted(schedule: Schedule) -> None:
    validate(schedule)
