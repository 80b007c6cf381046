"""What fences are for: a write about an attempt by somebody who believes something that is not so.

Our writers read what they write about under the lock, so nothing that they do in order meets a fence. Here each
function of the store that writes about attempts and instances is told a wrong token or a wrong state, as by a writer
that read before its lock: it must refuse, and touch no attempt but the one that is meant.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import sqlalchemy as sa
from attrs import frozen

from scheduler.commands.clear import clear_tasks
from scheduler.decisions.clearing import Selection
from scheduler.decisions.outcomes import Consequence
from scheduler.model import AttemptState, RunState, TaskState
from scheduler.store import attempts, clearing, runs, tasks
from scheduler.store.attempts import Claim, End, Hop, Start
from scheduler.store.clearing import Rewrite, Stopped
from scheduler.store.errors import LockOrderError
from scheduler.store.locks import Lock
from scheduler.store.writer import Transaction
from tests.stress.probes import unregistered
from tests.world import World, chain

Writing = Callable[[Transaction], Awaitable[None]]
STRANGER = str(uuid.UUID(int=7))
"""A token that nobody has."""

_INSTANCES = (
    "SELECT d.dag_id, ti.id AS key, ti.run_pk AS run, ti.token FROM task_instance ti"
    " JOIN dag_run r ON r.id = ti.run_pk JOIN dag d ON d.id = r.dag_pk"
)
_ATTEMPTS = sa.text("SELECT token, state, cancel_requested_at IS NOT NULL AS asked FROM attempt")
_RESULTS = sa.text("SELECT ti_id FROM xcom")
_STATE_OF_ATTEMPT = sa.text("UPDATE attempt SET state = :state WHERE token = CAST(:token AS uuid) RETURNING 1")


class _Undo(Exception):
    """Carries what was seen out of a transaction that must not commit."""


@frozen
class One:
    """A task instance of the scene: its run's key, its own, its present token."""

    run: int
    key: int
    token: str


@frozen
class Scene:
    """Instances by name: in each state, and beside a queued and a running one another one, which nobody may touch."""

    world: World
    of: Mapping[str, One]

    @classmethod
    async def make(cls, world: World) -> "Scene":
        later = ("queued", "queued beside", "running", "running beside", "restarting", "success")
        await world.put(*(chain(1, name) for name in ("scheduled", *later)))
        for name in later:
            await world.trigger(name)
        got = {one.dag_id: one for one in await world.admit()}
        await world.start([got[name] for name in later[2:]])
        await world.end([got["success"]])
        await world.judge()
        await world.trigger("scheduled")
        keys = {row["dag_id"]: row["run"] for row in await world.rows(_INSTANCES)}
        await world.store.transact(clear_tasks, world.graphs, [keys["restarting"]], Selection())
        rows = await world.rows(_INSTANCES)
        return cls(world, {row["dag_id"]: One(row["run"], row["key"], str(row["token"])) for row in rows})

    async def refuses(self, what: str, name: str, write: Writing) -> None:
        """Whoever holds the instance and its run writes something that is not so."""
        try:
            await self._try(name, write)
        except LockOrderError:
            return
        raise AssertionError(f"let through: {what}")

    async def touches(
        self,
        what: str,
        name: str,
        write: Writing,
        *,
        state: str | None = None,
        asked: bool = False,
        attempt_is: str | None = None,
    ) -> None:
        """The write goes through, changes the attempt of that instance to this and no other, and returns no result.

        `attempt_is`: the state that the attempt has got before, without its instance.
        """
        seen = await self._try(name, write, attempt_is=attempt_is)
        names = {one.token: other for other, one in self.of.items()}
        changed = {names.get(token, "another"): now for token, now in seen["changed"].items()}
        expected = {name: (state or seen["before"][self.of[name].token][0], asked)} if state or asked else {}
        assert changed == expected, f"{what}: attempts become {changed} instead of {expected}"
        assert not seen["results"], f"{what}: a result that nobody has returned"

    async def _try(self, name: str, write: Writing, *, attempt_is: str | None = None) -> dict[str, Any]:
        one = self.of[name]

        async def body(tx: Transaction) -> None:
            await tx.lock(runs.LOCK_RUN, keys=[one.run])
            await tx.lock(tasks.LOCK_KEYS, keys=[one.key])
            if attempt_is is not None:
                await tx.fetch(_STATE_OF_ATTEMPT, {"token": one.token, "state": attempt_is})
            before = await _attempts(tx)
            await write(tx)
            after = await _attempts(tx)
            raise _Undo(
                before, {key: row for key, row in after.items() if before.get(key) != row}, await tx.fetch(_RESULTS)
            )

        try:
            await self.world.store.transact(unregistered(body, Lock.DAG_RUN, Lock.TASK_INSTANCE))
        except _Undo as undo:
            before, changed, results = undo.args
            return {"before": before, "changed": changed, "results": results}
        raise AssertionError("unreachable")


async def _attempts(tx: Transaction) -> dict[str, tuple[str, bool]]:
    return {str(row["token"]): (row["state"], row["asked"]) for row in await tx.fetch(_ATTEMPTS)}


async def fences_hold(scene: Scene) -> None:
    """A stale token, a stale state: refused. Of other attempts nothing is touched. The scene stays as it is."""
    await _ending_and_admitting(scene)
    await _starting(scene)
    await _clearing_and_marking(scene)
    await _verdicts(scene)


async def _ending_and_admitting(scene: Scene) -> None:
    """Alone, and as parts of the one statement of a hop."""
    of, daemon = scene.of, scene.world.daemon

    def end(name: str, *, token: str = "", state: str = "failed", result: str | None = None) -> End:
        one = of[name]
        what = Consequence(state=TaskState(state), attempt=AttemptState(state), losses=0)
        return End(key=one.key, token=token or one.token, consequence=what, result=result)

    def claim(name: str) -> Claim:
        return Claim(key=of[name].key, token=STRANGER, try_number=1, log_path="/log")

    def together(name: str, **parts: Any) -> Writing:
        made = {"ends": [], "changes": {}, "claims": [], **parts}
        return lambda tx: attempts.hop(tx, Hop(runs={of[name].run: None}, **made), daemon=daemon)

    def ways(name: str, one: End) -> dict[str, Writing]:
        return {"end": lambda tx: attempts.end(tx, [one]), "hop": together(name, ends=[one])}

    for verb, write in ways("running", end("running", token=STRANGER)).items():
        await scene.refuses(f"{verb} with a stale token", "running", write)
    for verb, write in ways("restarting", end("restarting")).items():
        await scene.refuses(f"{verb} of a task that was cleared", "restarting", write)
    for verb, write in ways("running", end("running", result="1")).items():
        await scene.touches(f"{verb} with a result and failed", "running", write, state="failed")
    for verb, write in ways("running", end("running", state="success")).items():
        await scene.touches(f"{verb} without a result", "running", write, state="success")
    over = of["success"].key
    await scene.refuses("judge what is over", "success", lambda tx: attempts.judge(tx, {over: TaskState.SKIPPED}))
    await scene.refuses(
        "judge what is over, in a hop", "success", together("success", changes={over: TaskState.SKIPPED})
    )
    await scene.refuses(
        "admit what is over", "success", lambda tx: attempts.admit(tx, [claim("success")], daemon=daemon)
    )
    await scene.refuses("admit what is over, in a hop", "success", together("success", claims=[claim("success")]))


async def _starting(scene: Scene) -> None:
    def start(name: str, token: str = "") -> Writing:
        one = Start(
            key=scene.of[name].key,
            token=token or scene.of[name].token,
            worker=scene.world.worker,
            hostname="h",
            pid=1,
        )
        return lambda tx: attempts.start(tx, [one])

    await scene.refuses("start with a stale token", "queued", start("queued", STRANGER))
    await scene.refuses("start what runs", "running", start("running"))
    await scene.touches("start", "queued", start("queued"), state="running")
    await scene.touches("start of an attempt that is over", "queued", start("queued"), attempt_is="lost")


async def _clearing_and_marking(scene: Scene) -> None:
    of = scene.of

    def rewrite(name: str, was: str, state: str, token: str | None = "") -> list[Rewrite]:
        mine = of[name].token if token == "" else token
        return [Rewrite(key=of[name].key, was=TaskState(was), token=mine, state=TaskState(state))]

    def clear(*about: Any) -> Writing:
        return lambda tx: clearing.clear(tx, rewrite(*about), reason="")

    def mark(*about: Any) -> Writing:
        return lambda tx: clearing.mark(tx, rewrite(*about), reason="")

    def impose(*about: Any) -> Writing:
        return lambda tx: clearing.impose(tx, rewrite(*about), reason="")

    def stopped(name: str, token: str = "") -> Writing:
        one = Stopped(key=of[name].key, token=token or of[name].token, was=TaskState.RESTARTING, state=TaskState.NONE)
        return lambda tx: clearing.stopped(tx, [one])

    await scene.refuses("clear in another state", "success", clear("success", "failed", "none", None))
    await scene.refuses("clear with a stale token", "queued", clear("queued", "queued", "none", STRANGER))
    await scene.touches("clear", "queued", clear("queued", "queued", "none"), state="revoked")
    await scene.touches("clear, over", "queued", clear("queued", "queued", "none"), attempt_is="lost")
    await scene.touches("clear what runs", "running", clear("running", "running", "restarting"), asked=True)
    await scene.refuses("mark in another state", "success", mark("success", "failed", "skipped", None))
    await scene.refuses("mark with a stale token", "queued", mark("queued", "queued", "failed", STRANGER))
    await scene.touches("mark", "queued", mark("queued", "queued", "failed"), state="revoked")
    await scene.touches("mark, over", "queued", mark("queued", "queued", "failed"), attempt_is="lost")
    await scene.refuses("impose in another state", "restarting", impose("restarting", "running", "failed"))
    await scene.refuses("impose with a stale token", "running", impose("running", "running", "failed", STRANGER))
    await scene.touches("impose", "running", impose("running", "running", "failed"), asked=True)
    await scene.touches("impose, over", "running", impose("running", "running", "failed"), attempt_is="lost")
    await scene.refuses("stop with a stale token", "restarting", stopped("restarting", STRANGER))
    await scene.refuses("stop what is wanted", "running", stopped("running"))
    await scene.touches("stop", "restarting", stopped("restarting"), state="revoked", asked=True)


async def _verdicts(scene: Scene) -> None:
    of = scene.of

    def skip(name: str, token: str = "") -> Writing:
        return lambda tx: tasks.skip(tx, {of[name].key: token or of[name].token}, reason="")

    def cancel(name: str) -> Writing:
        return lambda tx: tasks.request_cancel(tx, {of[name].key: of[name].token}, reason="")

    await scene.refuses("skip with a stale token", "queued", skip("queued", STRANGER))
    await scene.refuses("skip what runs", "running", skip("running"))
    await scene.touches("skip", "queued", skip("queued"), state="revoked")
    await scene.touches("skip, over", "queued", skip("queued"), attempt_is="lost")
    await scene.touches("cancel", "running", cancel("running"), asked=True)
    await scene.touches("cancel what does not run", "queued", cancel("queued"))
    run = of["running"].run
    await scene.refuses("requeue a run that runs", "running", lambda tx: clearing.requeue(tx, [run]))
    await scene.refuses("end a run that runs anew", "running", lambda tx: clearing.end_anew(tx, {run: RunState.FAILED}))
