"""The literal list of the routines that live on the database and an executor, and what they share.

The daemon (`daemon.py`) adds those that read files and warm processes; whoever runs daemons without these, as stress
tests do, takes this list as it is.
"""

from nurseries.clock import SystemClock
from nurseries.routine import Routine
from nurseries.switchboard import Switchboard
from scheduler.executors.base import Executor
from scheduler.procedures.batching import Batching
from scheduler.procedures.dispatch import Dispatch
from scheduler.procedures.steadiness import Steadiness
from scheduler.procedures.vacancies import Company, Vacancies
from scheduler.routines.cancel_attempts import CancelAttempts
from scheduler.routines.create_runs import CreateRuns
from scheduler.routines.enqueue_tasks import EnqueueTasks
from scheduler.routines.heartbeat import Heartbeat
from scheduler.routines.look_out import LookOut
from scheduler.routines.record_outcomes import RecordOutcomes
from scheduler.routines.rescue import Rescue
from scheduler.routines.schedule_tasks import ScheduleTasks
from scheduler.routines.start_attempts import StartAttempts
from scheduler.routines.start_runs import StartRuns
from scheduler.routines.time_out_runs import TimeOutRuns
from scheduler.store.documents import Graphs
from scheduler.store.seats import Seat
from scheduler.store.transaction import Store


def routines(
    *,
    store: Store,
    graphs: Graphs,
    executor: Executor,
    dispatch: Dispatch,
    switchboard: Switchboard,
    seat: Seat,
    clock: SystemClock,
) -> list[Routine]:
    """One of each, of the daemon that has this seat. Each is a file in `routines/`."""
    pictures, steadiness, company = dispatch.pictures, Steadiness(clock=clock), Company()
    hear, poke = switchboard.subscribe, switchboard.poke
    may_create = Vacancies(told=hear(*CreateRuns.waits_by), company=company)
    may_start = Vacancies(told=hear(*StartRuns.waits_by), company=company)
    return [
        LookOut(store=store, daemon=seat.uuid, steadiness=steadiness, poke=poke, company=company),
        CreateRuns(store=store, graphs=graphs, dispatch=dispatch, vacancies=may_create),
        StartRuns(store=store, graphs=graphs, vacancies=may_start),
        ScheduleTasks(store=store, graphs=graphs, pictures=pictures),
        EnqueueTasks(store=store, graphs=graphs, pictures=pictures, dispatch=dispatch),
        StartAttempts(store=store, graphs=graphs, executor=executor),
        RecordOutcomes(
            store=store,
            graphs=graphs,
            pictures=pictures,
            executor=executor,
            dispatch=dispatch,
            batching=Batching(company=company),
        ),
        CancelAttempts(store=store, executor=executor),
        TimeOutRuns(store=store),
        Rescue(store=store, graphs=graphs, steadiness=steadiness, dispatch=dispatch),
        Heartbeat(store=store, executor=executor, clock=clock, seat=seat),
    ]
