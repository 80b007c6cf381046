"""The supervisor's promises about routines, N1 to N11."""

import logging
from collections.abc import Awaitable, Callable, Hashable

import pytest
import trio
import trio.testing
from attrs import define, field

from nurseries.backoff import Budget
from nurseries.errors import BudgetExhausted, Unavailable, Weather
from nurseries.gate import Gate
from nurseries.notify import Notifier
from nurseries.routine import Pace, Progress
from nurseries.supervisor import Phase, Supervisor
from nurseries.switchboard import Switchboard
from nurseries.testing import StepRecorder
from nurseries.watchdog import feed_watchdog

QUICK = Budget(backoff_min_s=0.0)


@define(kw_only=True)
class Scripted:
    """A routine that does whatever the test says."""

    does: Callable[[], Awaitable[Progress]]
    name: str = "scripted"
    pace: Pace = field(default=Pace(seconds=1000))
    wakes_on: tuple[Hashable, ...] = ("topic",)
    step_limit_s: float = 30.0

    async def step(self) -> Progress:
        return await self.does()


async def idle() -> Progress:
    await trio.lowlevel.checkpoint()
    return Progress.IDLE


def raiser(*errors: Exception) -> Callable[[], Awaitable[Progress]]:
    """Raise these, one after the other; then idle."""
    script = list(errors)

    async def step() -> Progress:
        await trio.lowlevel.checkpoint()
        if script:
            raise script.pop(0)
        return Progress.IDLE

    return step


def only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    assert len(group.exceptions) == 1
    return group.exceptions[0]


class TestSteps:
    async def test_n1_a_step_never_overlaps_itself(self, autojump_clock: trio.testing.MockClock) -> None:
        board, recorder = Switchboard(), StepRecorder()
        inside = 0

        async def step() -> Progress:
            nonlocal inside
            inside += 1
            assert inside == 1
            board.poke("topic")
            await trio.sleep(1)
            inside -= 1
            return Progress.IDLE

        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor([Scripted(does=step)], switchboard=board, instrument=recorder).run)
            for _ in range(50):
                board.poke("topic")
                await trio.sleep(0.3)
            assert recorder.count("scripted") >= 10
            nursery.cancel_scope.cancel()

    async def test_n2_a_poke_during_a_step_causes_one_more(self, autojump_clock: trio.testing.MockClock) -> None:
        board, recorder = Switchboard(), StepRecorder()
        go = trio.Event()

        async def step() -> Progress:
            await go.wait()
            return Progress.IDLE

        async with trio.open_nursery() as nursery:
            board.poke("topic")
            await nursery.start(Supervisor([Scripted(does=step)], switchboard=board, instrument=recorder).run)
            board.poke("topic")  # before the step began, so seen by it
            await recorder.wait_started("scripted")
            for _ in range(10):
                board.poke("topic")
            go.set()
            await trio.sleep(10)
            assert recorder.count("scripted") == 2
            nursery.cancel_scope.cancel()

    async def test_n2_a_poke_between_construction_and_run_is_not_lost(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        board, recorder = Switchboard(), StepRecorder()
        supervisor = Supervisor([Scripted(does=idle)], switchboard=board, instrument=recorder)
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await recorder.wait_steps("scripted", at_least=1)
            nursery.cancel_scope.cancel()

    async def test_n3_a_stuck_and_a_failing_routine_delay_only_themselves(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        board, recorder = Switchboard(), StepRecorder()

        async def fails() -> Progress:
            raise Weather("rain")

        async def stuck() -> Progress:
            await trio.sleep_forever()
            raise AssertionError

        routines = [
            Scripted(name="stuck", does=stuck),
            Scripted(name="fails", does=fails),
            Scripted(name="works", does=idle, pace=Pace(seconds=1)),
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor(routines, switchboard=board, instrument=recorder).run)
            with trio.fail_after(100.5):
                await recorder.wait_steps("works", at_least=100)
            nursery.cancel_scope.cancel()

    async def test_n11_the_pace_is_kept_without_any_poke(self, autojump_clock: trio.testing.MockClock) -> None:
        recorder = StepRecorder()
        routine = Scripted(does=idle, pace=Pace(seconds=5))
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor([routine], switchboard=Switchboard(), instrument=recorder).run)
            await trio.sleep(51)
            assert recorder.count("scripted") == 11
            nursery.cancel_scope.cancel()

    async def test_n11_more_means_at_once_and_again_means_soon(self, autojump_clock: trio.testing.MockClock) -> None:
        answers = [Progress.MORE, Progress.MORE, Progress.again(0.5), Progress.IDLE]
        times: list[float] = []

        async def step() -> Progress:
            times.append(trio.current_time())
            return answers.pop(0) if answers else Progress.IDLE

        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor([Scripted(does=step)], switchboard=Switchboard()).run)
            await trio.sleep(100)
            assert [round(at - times[0], 6) for at in times] == [0, 0, 0, 0.5]
            nursery.cancel_scope.cancel()

    async def test_n11_a_routine_that_always_has_more_lets_others_run(self) -> None:
        recorder = StepRecorder()

        async def greedy() -> Progress:
            return Progress.MORE

        routines = [Scripted(name="greedy", does=greedy), Scripted(name="other", does=idle)]
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor(routines, switchboard=Switchboard(), instrument=recorder).run)
            await recorder.wait_steps("other", at_least=1)
            await recorder.wait_steps("greedy", at_least=3)
            nursery.cancel_scope.cancel()

    async def test_n10_the_first_pass_is_over_when_all_have_stepped(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        go = trio.Event()

        async def waits() -> Progress:
            await go.wait()
            return Progress.IDLE

        routines = [
            Scripted(name="early", does=idle),
            Scripted(name="rainy", does=raiser(Weather("rain"), Weather("rain"))),
            Scripted(name="late", does=waits),
        ]
        supervisor = Supervisor(routines, switchboard=Switchboard())
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await trio.sleep(100)
            assert not supervisor.first_pass.is_set()
            go.set()
            await supervisor.first_pass.wait()
            nursery.cancel_scope.cancel()

    async def test_n10_without_routines_there_is_nothing_to_wait_for(self) -> None:
        supervisor = Supervisor([], switchboard=Switchboard())
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await supervisor.first_pass.wait()
            nursery.cancel_scope.cancel()

    def test_two_routines_with_one_name_are_refused(self) -> None:
        with pytest.raises(ValueError, match="same name"):
            Supervisor([Scripted(does=idle), Scripted(does=idle)], switchboard=Switchboard())


class TestFailures:
    async def test_n4_an_assertion_error_leaves_at_once(self) -> None:
        recorder = StepRecorder()
        routines = [
            Scripted(name="bug", does=raiser(AssertionError("2 + 2 == 5"))),
            Scripted(name="other", does=idle),
        ]
        with pytest.raises(ExceptionGroup) as caught:
            await Supervisor(routines, switchboard=Switchboard(), instrument=recorder).run()
        assert repr(only(caught.value)) == "AssertionError('2 + 2 == 5')"
        assert recorder.count("bug") == 1

    async def test_n4_an_assertion_error_is_found_inside_groups(self) -> None:
        error = ExceptionGroup("outer", [Weather("rain"), ExceptionGroup("inner", [AssertionError("bug")])])
        with pytest.raises(ExceptionGroup) as caught:
            await Supervisor([Scripted(does=raiser(error))], switchboard=Switchboard()).run()
        assert caught.group_contains(AssertionError, match="bug")

    async def test_n4_a_step_that_returns_nothing_is_a_bug(self) -> None:
        async def step() -> Progress:
            return None  # type: ignore[return-value]

        with pytest.raises(ExceptionGroup) as caught:
            await Supervisor([Scripted(does=step)], switchboard=Switchboard()).run()
        assert "returns a Progress, not None" in str(only(caught.value))

    async def test_n4_the_sixth_failure_within_the_window_leaves(self, autojump_clock: trio.testing.MockClock) -> None:
        recorder = StepRecorder()
        errors = [RuntimeError(f"number {n}") for n in range(10)]
        with pytest.raises(ExceptionGroup) as caught:
            await Supervisor([Scripted(does=raiser(*errors))], switchboard=Switchboard(), instrument=recorder).run()
        exhausted = only(caught.value)
        assert isinstance(exhausted, BudgetExhausted)
        assert str(exhausted) == "scripted failed 6 times within 60 s, most recently: RuntimeError: number 5"
        assert exhausted.__cause__ is errors[5]
        assert recorder.count("scripted") == 6

    async def test_n4_a_flapping_routine_exhausts_its_budget_although_it_succeeds_between(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        works = True

        async def step() -> Progress:
            nonlocal works
            works = not works
            if not works:
                raise RuntimeError("flap")
            return Progress.MORE

        with pytest.raises(ExceptionGroup) as caught:
            await Supervisor([Scripted(does=step)], switchboard=Switchboard()).run()
        assert isinstance(only(caught.value), BudgetExhausted)

    async def test_n4_failures_far_apart_never_exhaust_it(self, autojump_clock: trio.testing.MockClock) -> None:
        works = True

        async def step() -> Progress:
            nonlocal works
            works = not works
            if not works:
                raise RuntimeError("now and then")
            return Progress.IDLE

        supervisor = Supervisor([Scripted(does=step, pace=Pace(seconds=15))], switchboard=Switchboard())
        with trio.move_on_after(3600):
            await supervisor.run()
        assert supervisor.statistics()[0].failures > 200

    async def test_n4_an_error_beside_a_cancelled_is_not_hidden(self) -> None:
        async def step() -> Progress:
            async with trio.open_nursery() as inner:
                inner.start_soon(trio.sleep_forever)
                raise AssertionError("beside a cancelled")
            raise AssertionError

        with pytest.raises(ExceptionGroup) as caught:
            await Supervisor([Scripted(does=step)], switchboard=Switchboard()).run()
        assert caught.group_contains(AssertionError, match="beside")

    async def test_n8_weather_costs_no_budget_and_is_logged_once_per_spell(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        recorder = StepRecorder()
        rain = [Weather(f"rain {n}") for n in range(50)]
        supervisor = Supervisor(
            [Scripted(does=raiser(*rain))], switchboard=Switchboard(), instrument=recorder, budget=QUICK
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await recorder.wait_steps("scripted", at_least=51)
            await supervisor.first_pass.wait()
            statistics = supervisor.statistics()[0]
            assert (statistics.weathers, statistics.failures, statistics.steps) == (50, 0, 1)
            nursery.cancel_scope.cancel()
        assert [record.message for record in caplog.records] == [
            "scripted: backing off: Weather: rain 0",
            "scripted: goes on after 50 failed tries",
        ]

    async def test_n8_an_outage_parks_everybody_and_one_prober_ends_it(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        recorder = StepRecorder()
        is_away, probing, probes = True, 0, 0

        async def probe() -> None:
            nonlocal probing, probes
            probing += 1
            probes += 1
            assert probing == 1
            await trio.sleep(0.1)
            probing -= 1
            if is_away:
                raise Unavailable("no route to host")

        async def step() -> Progress:
            if is_away:
                raise Unavailable("connection refused")
            return Progress.IDLE

        gate = Gate(probe)
        routines = [Scripted(name=f"r{n}", does=step) for n in range(5)]
        supervisor = Supervisor(routines, switchboard=Switchboard(), gate=gate, instrument=recorder)
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await trio.sleep(600)
            assert not gate.is_open
            assert 590 < gate.closed_for() <= 600
            assert {each.phase for each in supervisor.statistics()} == {Phase.PARKED}
            assert probes > 300
            assert 1 <= len(recorder.steps) <= 5, "who is parked makes no steps"
            assert supervisor.is_live()
            is_away = False
            await supervisor.first_pass.wait()
            assert gate.is_open
            assert gate.closings == 1
            assert all(each.failures == 0 for each in supervisor.statistics())
            nursery.cancel_scope.cancel()
        waits = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
        assert waits == ["waiting until it is back: connection refused"]

    async def test_n8_a_gate_that_opens_too_early_does_not_spin(self, autojump_clock: trio.testing.MockClock) -> None:
        recorder = StepRecorder()

        async def probe() -> None:
            await trio.lowlevel.checkpoint()

        async def step() -> Progress:
            raise Unavailable("only for us")

        supervisor = Supervisor([Scripted(does=step)], switchboard=Switchboard(), gate=Gate(probe), instrument=recorder)
        with trio.move_on_after(600):
            await supervisor.run()
        assert 20 < recorder.count("scripted") < 100

    async def test_n8_a_probe_that_fails_otherwise_is_a_bug(self) -> None:
        async def probe() -> None:
            raise LookupError("no such column")

        supervisor = Supervisor(
            [Scripted(does=raiser(Unavailable("away")))], switchboard=Switchboard(), gate=Gate(probe)
        )
        with pytest.raises(ExceptionGroup) as caught:
            await supervisor.run()
        assert caught.group_contains(LookupError)


class TestEnds:
    @pytest.mark.parametrize("at", [0, 0.5, 1, 1.5, 2, 30])
    async def test_n5_cancellation_reaches_every_phase(self, at: float, autojump_clock: trio.testing.MockClock) -> None:
        async def slow() -> Progress:
            await trio.sleep(1)
            return Progress.IDLE

        async def rainy() -> Progress:
            raise Weather("rain")

        async def away() -> Progress:
            raise Unavailable("away")

        async def probe() -> None:
            await trio.sleep(1)
            raise Unavailable("away")

        routines = [
            Scripted(name="slow", does=slow),
            Scripted(name="rainy", does=rainy),
            Scripted(name="away", does=away),
            Scripted(name="idle", does=idle),
        ]
        with trio.move_on_after(at) as scope:
            await Supervisor(routines, switchboard=Switchboard(), gate=Gate(probe)).run()
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(at, abs=0.001)

    async def test_n5_a_cancel_waits_for_a_bounded_exit(self, autojump_clock: trio.testing.MockClock) -> None:
        left = False

        async def step() -> Progress:
            nonlocal left
            try:
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(2, shield=True):
                    await trio.sleep_forever()
                left = True
            raise AssertionError

        with trio.move_on_after(1):
            await Supervisor([Scripted(does=step)], switchboard=Switchboard()).run()
        assert left
        assert trio.current_time() == pytest.approx(3)

    async def test_n6_no_task_is_left(self) -> None:
        task = trio.lowlevel.current_task()
        before = len(task.child_nurseries)
        routines = [Scripted(name=f"r{n}", does=idle) for n in range(3)]
        supervisor = Supervisor(routines, switchboard=Switchboard())
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(supervisor.run)
                await supervisor.first_pass.wait()
                scope.cancel()
        assert len(task.child_nurseries) == before
        assert not supervisor.is_live()
        with trio.move_on_after(0.01):  # and it can run again
            await supervisor.run()


class TestStatistics:
    async def test_n7_every_routine_reports(self, autojump_clock: trio.testing.MockClock) -> None:
        recorder = StepRecorder()

        async def slow() -> Progress:
            await trio.sleep(2)
            return Progress.IDLE

        routines = [
            Scripted(name="slow", does=slow),
            Scripted(name="poor", does=raiser(RuntimeError("once"))),
        ]
        supervisor = Supervisor(routines, switchboard=Switchboard(), instrument=recorder, budget=QUICK)
        assert supervisor.statistics()[0].phase is Phase.STARTING
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await trio.sleep(1)
            assert supervisor.statistics()[0].phase is Phase.STEPPING
            await trio.sleep(4)
            slow_one, poor = supervisor.statistics()
            assert (slow_one.name, slow_one.phase, slow_one.steps) == ("slow", Phase.WAITING, 1)
            assert slow_one.longest_step_s == pytest.approx(2)
            assert slow_one.phase_s == pytest.approx(3)
            assert slow_one.last_error is None
            assert (poor.failures, poor.steps, poor.last_error) == (1, 1, "RuntimeError: once")
            nursery.cancel_scope.cancel()

    async def test_n9_a_stuck_step_is_late_and_only_that_one(self, autojump_clock: trio.testing.MockClock) -> None:
        go = trio.Event()

        async def stuck() -> Progress:
            await go.wait()
            return Progress.IDLE

        routines = [Scripted(name="stuck", does=stuck, step_limit_s=7), Scripted(name="fine", does=idle)]
        supervisor = Supervisor(routines, switchboard=Switchboard())
        assert not supervisor.is_live(), "what does not run does not live"
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await trio.sleep(6)
            assert supervisor.is_live()
            await trio.sleep(2)
            assert supervisor.late() == ("stuck",)
            assert supervisor.statistics()[0].is_late
            go.set()
            await trio.sleep(500)
            assert supervisor.is_live()
            nursery.cancel_scope.cancel()

    async def test_n9_a_prober_that_hangs_is_no_life(self, autojump_clock: trio.testing.MockClock) -> None:
        supervisor = Supervisor(
            [Scripted(does=raiser(Unavailable("away")))],
            switchboard=Switchboard(),
            gate=Gate(trio.sleep_forever),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await trio.sleep(29)
            assert supervisor.is_live()
            await trio.sleep(5)
            assert supervisor.late() == ("scripted",)
            nursery.cancel_scope.cancel()

    async def test_n9_the_watchdog_is_fed_only_while_there_is_progress(
        self, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fed: list[float] = []
        alive = True
        notifier = Notifier("/nowhere", watchdog_usec=30_000_000)
        monkeypatch.setattr(notifier, "watchdog", lambda: fed.append(round(trio.current_time())))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed_watchdog, notifier, lambda: alive)
            await trio.sleep(25)
            assert fed == [10, 20]
            alive = False
            await trio.sleep(20)
            assert fed == [10, 20]
            alive = True
            await trio.sleep(1.5)
            assert fed[:2] == [10, 20]
            assert len(fed) == 3, "fed again as soon as there is progress, not a third of the patience later"
            nursery.cancel_scope.cancel()

    async def test_n9_the_watchdog_is_not_fed_by_a_late_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = trio.testing.MockClock()
        fed: list[float] = []
        notifier = Notifier("/nowhere", watchdog_usec=30_000_000)
        monkeypatch.setattr(notifier, "watchdog", lambda: fed.append(trio.current_time()))

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed_watchdog, notifier, lambda: True)
                await trio.testing.wait_all_tasks_blocked()
                clock.jump(12)  # two seconds more than asked for
                await trio.testing.wait_all_tasks_blocked()
                assert fed == []
                clock.jump(1.1)
                await trio.testing.wait_all_tasks_blocked()
                assert len(fed) == 1
                nursery.cancel_scope.cancel()

        await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))

    async def test_n9_without_a_watchdog_nothing_is_fed(self, autojump_clock: trio.testing.MockClock) -> None:
        with trio.move_on_after(1000):
            await feed_watchdog(Notifier(), lambda: True)


async def test_names_come_from_the_class_unless_given() -> None:
    class StartRuns:
        pace = Pace(seconds=1)
        wakes_on = ()

        async def step(self) -> Progress:
            return Progress.IDLE

    supervisor = Supervisor([StartRuns(), Scripted(does=idle, name="given")], switchboard=Switchboard())
    assert [each.name for each in supervisor.statistics()] == ["start_runs", "given"]
    assert repr(supervisor) == "<Supervisor of start_runs, given>"
