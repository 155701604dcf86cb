"""Opens sessions on a ring, notices when one stands still, and repairs it.

The steps are those of docs/decisions/0006-token-slices.md: a new layout where places changed, the
caches that are missing, the last known token to stage 0. A stall is answered in growing steps: the
token again, then everything again under a new layout, then other nodes for those that are silent.
"""

from collections.abc import Callable, Collection, Iterable

from maille_coordinator.language.actions import SessionShared
from maille_coordinator.language.measuring import Measurer
from maille_coordinator.language.orders import (
    bare_order,
    begin_order,
    check_order,
    fits_one_order,
    inject_order,
    open_orders,
    rebuild_orders,
    replay_order,
    route,
)
from maille_coordinator.language.state import Pipeline, PipelineState, Session, World
from maille_protocol import ErrorCode, SessionOrder, StageReport, StageState

LEAST_DEADLINE_MS = 500.0
_DEADLINE_TOKENS = 8.0
_DEADLINE_PREFILLS = 3.0
_PATIENCE = (1.0, 1.5, 2.0, 4.0, 8.0, 16.0)
"""Factors of the deadline, by repairs without a token since."""
_PING_MS = 700.0
_GRACE_MS = 150.0
_MOST_ATTEMPTS = 9
_FAILING_ATTEMPTS = 2
"""A node whose steps still fail after so many repairs without a token is not asked again."""
_FULL_ATTEMPTS = 3
"""So often a stage may have no room for the only session of its ring."""
_FILL_AGAIN_MS = 1000.0
_LAG_TOKENS = 16
"""So far a shadow may be behind that has had a session from its beginning."""
_RELOAD_AFTER = 1
_RELOAD_AFTER_STALLS = 4

_RUNNING = (PipelineState.READY, PipelineState.CHECKING)


class Repairs:
    """Keeps the sessions of a ring going."""

    def __init__(self, world: World, measurer: Measurer) -> None:
        self._world = world
        self._measurer = measurer
        self.end: Callable[[Session, str, str, str], None]
        """Ends a session: finish, code, text."""
        self.replace: Callable[[Pipeline, Iterable[str], str], None]
        """Finds other nodes for those that do not answer, and says why."""
        self.exclude: Callable[[Pipeline, Iterable[str], str], None]
        """The same for those that fail."""
        self.reload: Callable[[Pipeline], None]
        """Makes sure that nodes have the stages that they are thought to have."""
        self.put_back: Callable[[Session], None]
        """Lets a session wait for room."""
        self.caught_up: Callable[[Pipeline], None]
        """Told that a shadow has all that one session needs."""

    # --- opening ---------------------------------------------------------------------------

    def open(self, session: Session) -> None:
        """Begin a session on a pipeline, from its known tokens."""
        pipeline = _ring(session)
        known = session.known()
        alone = len(pipeline.slots) == 1
        if not fits_one_order(session, len(known)) or (alone and session.tokens):
            self._reopen(session)
            return
        self._open_all(session, pipeline)
        if not alone:  # else the stage has begun with what the last one is told
            self._send(pipeline, 0, [begin_order(session, pipeline, known)])
        self._repaired(session, len(known) - session.shared)

    def _reopen(self, session: Session) -> None:
        """Fill all caches of a session that may be known to its stages already."""
        session.source = session.shared = 0
        pipeline = _ring(session)
        # A stage that is first and last would begin with the prompt, were it not here already.
        self._send(pipeline, 0, [bare_order(session, pipeline, 0)])
        self._open_all(session, pipeline)
        last = len(pipeline.slots) - 1
        known = session.known()
        self._send(pipeline, 0, rebuild_orders(session, pipeline, known, 0, last))
        self._send(pipeline, 0, [inject_order(session, pipeline)])
        for stage, slot in enumerate(pipeline.slots):
            for node in slot.shadows:
                self._await(session, pipeline, stage, node)
        self._repaired(session, len(known))

    def _open_all(self, session: Session, pipeline: Pipeline) -> None:
        """OPEN for all stages but the first of several; the last one first."""
        session.holds = [set(slot.routed) for slot in pipeline.slots]
        session.behind.clear()
        session.caught_up.clear()
        for stage in reversed(range(len(pipeline.slots))):
            if stage or len(pipeline.slots) == 1:
                self._send(pipeline, stage, open_orders(session, pipeline, stage))

    def relayout(
        self,
        pipeline: Pipeline,
        reopen: Session | None = None,
        promoted: Collection[int] = (),
    ) -> None:
        """Say who holds what, then repair every session: what was on its way is void.

        Args:
            pipeline: the ring.
            reopen: a session whose caches are all to be filled anew.
            promoted: stages that a shadow has taken over: it may be some tokens behind.
        """
        pipeline.layout += 1
        self.tell_route(pipeline)
        for session in list(pipeline.sessions.values()):
            # A rebuild that was under way has just been made void.
            if session is reopen or session.pending > 1:
                self._reopen(session)
            else:
                self._mend(session, {stage: _lacks(session, pipeline, stage) for stage in promoted})

    def tell_route(self, pipeline: Pipeline) -> None:
        """Send the route to all who are in it."""
        self._world.write_ring(pipeline)
        message = route(pipeline)
        for node in sorted(pipeline.nodes):
            self._world.send(node, message)

    def _send(self, pipeline: Pipeline, stage: int, orders: Iterable[SessionOrder]) -> None:
        for order in orders:
            for node in pipeline.slots[stage].routed:
                self._world.send(node, order)

    def _mend(self, session: Session, gaps: dict[int, int]) -> None:
        """Fill what is missing, `gaps` from the positions given on, and go on."""
        pipeline = _ring(session)
        lost = {
            stage: 0
            for stage, slot in enumerate(pipeline.slots)
            if slot.primary not in session.holds[stage]
        }
        runs = _runs(gaps | lost)
        last = len(pipeline.slots) - 1
        if (
            not session.tokens  # within the prompt nobody knows what each stage has
            or len(lost) > last
        ):
            self._reopen(session)
            return
        known = session.known()
        for stage in sorted(lost, reverse=True):
            self._send(pipeline, stage, open_orders(session, pipeline, stage))
            session.holds[stage] |= set(pipeline.slots[stage].routed)
        rebuilt = 0
        for first, until, position in runs:
            rebuilt += len(known) - position
            if first == 0:
                orders = rebuild_orders(session, pipeline, known, position, until)
                self._send(pipeline, 0, orders)
            else:
                # Its shadows have heard the same: only one of them is to speak.
                before = pipeline.slots[first - 1].primary
                order = replay_order(session, pipeline, first - 1, position, until)
                self._world.send(before, order)
        for stage, slot in enumerate(pipeline.slots):
            for node in slot.shadows:
                # What was on its way to one that is behind is void as well.
                if node not in session.holds[stage] or (stage, node) in session.behind:
                    self._fill(session, pipeline, stage, node, 0)
        self._send(pipeline, 0, [inject_order(session, pipeline)])
        self._repaired(session, rebuilt + 1)

    def _fill(
        self, session: Session, pipeline: Pipeline, stage: int, node: str, position: int
    ) -> None:
        """Give a shadow what it lacks, while the ring goes on."""
        if node not in session.holds[stage]:
            for order in open_orders(session, pipeline, stage):
                self._world.send(node, order)
            session.holds[stage].add(node)
        if stage == 0:
            for order in rebuild_orders(session, pipeline, session.known(), position, 0):
                self._world.send(node, order)
        else:
            before = pipeline.slots[stage - 1].primary
            self._world.send(before, replay_order(session, pipeline, stage - 1, position, stage))
        self._await(session, pipeline, stage, node)

    def _await(self, session: Session, pipeline: Pipeline, stage: int, node: str) -> None:
        session.behind[stage, node] = self._world.now_ms
        session.caught_up.pop((stage, node), None)
        self._world.send(node, check_order(session, pipeline, stage))

    def _repaired(self, session: Session, pending: int) -> None:
        session.pending = pending
        session.gaps.clear()
        session.repaired_ms = session.progress_ms = self._world.now_ms
        self._world.timers.cancel(("repair", session.handle))
        self.watch(session)

    # --- time ------------------------------------------------------------------------------

    def watch(self, session: Session) -> None:
        """Look again when the next token should have come."""
        pipeline = _ring(session)
        base_ms = max(LEAST_DEADLINE_MS, _DEADLINE_TOKENS * pipeline.token_ms)
        factor = _PATIENCE[min(session.attempts, len(_PATIENCE) - 1)]
        at_ms = self._world.now_ms + base_ms * factor + self._work_ms(pipeline)
        self._world.timers.set(("session", session.handle), at_ms)

    def _work_ms(self, pipeline: Pipeline) -> float:
        pending = sum(session.pending for session in pipeline.sessions.values())
        return _DEADLINE_PREFILLS * pipeline.prefill_ms * pending

    def stalled(self, handle: int) -> None:
        """A token is late."""
        world = self._world
        session = world.handles.get(handle)
        if session is None or session.pipeline is None:
            return
        pipeline = session.pipeline
        if pipeline.state not in _RUNNING:
            return  # it goes on with the next layout
        if not world.connected:
            self.watch(session)
            return
        session.attempts += 1
        world.counters.repairs += 1
        silent = self._silent(session, pipeline)
        if session.attempts > _MOST_ATTEMPTS:
            self.give_up(session, f"no token came in {session.attempts} tries to repair the ring")
        elif silent:
            self.replace(pipeline, silent, "does not answer")
        elif session.attempts == 1:
            self._ping(session, pipeline)
            self.tell_route(pipeline)
            if session.pending > 1:
                self._reopen(session)
            else:
                self._mend(session, {})
        elif session.attempts == _RELOAD_AFTER_STALLS:
            self.reload(pipeline)
        else:
            self._ping(session, pipeline)
            self.relayout(pipeline, reopen=session)

    def _ping(self, session: Session, pipeline: Pipeline) -> None:
        session.pinged_ms = self._world.now_ms
        for name in sorted(pipeline.nodes):
            node = self._world.nodes.get(name)
            if node is not None:
                self._measurer.ping_once(node)

    def _silent(self, session: Session, pipeline: Pipeline) -> list[str]:
        pinged_ms = session.pinged_ms
        if pinged_ms is None or self._world.now_ms - pinged_ms < _PING_MS:
            return []
        return [
            slot.primary
            for slot in pipeline.slots
            if (node := self._world.nodes.get(slot.primary)) is None or node.answered_ms < pinged_ms
        ]

    # --- what stages report ----------------------------------------------------------------

    def reported(self, node: str, report: StageReport) -> None:
        """A stage cannot go on with one session, or has caught up with it."""
        session = self._world.handles.get(report.session)
        pipeline = None if session is None else session.pipeline
        if (
            session is None
            or pipeline is None
            or pipeline.number != report.pipeline
            or report.stage >= len(session.holds)
        ):
            self._world.counters.strays += 1
            return
        if report.state is StageState.HOLDING:
            session.behind.pop((report.stage, node), None)
            session.caught_up[report.stage, node] = report.length
            self.caught_up(pipeline)
            return
        if node in pipeline.slots[report.stage].shadows:
            self._shadow_lacks(session, pipeline, node, report)
            return
        if report.code is ErrorCode.UNKNOWN_SESSION:
            session.holds[report.stage].discard(node)
            self.soon(session)
            return
        if node != pipeline.slots[report.stage].primary:
            self._world.counters.strays += 1
            return
        match report.code:
            case ErrorCode.CACHE_GAP:
                session.gaps[report.stage] = min(report.length, session.length)
                if session.source and report.length < session.shared:
                    # What it was to begin with is not there any more.
                    session.source, session.shared = 0, min(session.shared, report.length)
                    self._world.add(SessionShared(session.start.session, session.shared))
                self.soon(session)
            case ErrorCode.CACHE_FULL | ErrorCode.OUT_OF_MEMORY | ErrorCode.NO_SPACE:
                if len(pipeline.sessions) > 1:
                    self.put_back(session)
                elif session.attempts >= _FULL_ATTEMPTS:
                    self.give_up(session, f"{node}: {report.text}", "cache_too_small")
                else:
                    # What ended there a moment ago may take the room, if its end was lost.
                    session.holds[report.stage].discard(node)
                    self.soon(session)
            case ErrorCode.INPUT_MALFORMED | ErrorCode.INPUT_TOO_LARGE:
                self.give_up(session, f"{node}: {report.text}")
            case ErrorCode.NODE_ERROR if session.attempts >= _FAILING_ATTEMPTS:
                self.exclude(pipeline, [node], f"its steps fail: {report.text}")
            case _:
                session.holds[report.stage].discard(node)
                self.soon(session)

    def _shadow_lacks(
        self, session: Session, pipeline: Pipeline, node: str, report: StageReport
    ) -> None:
        """Nobody waits for a shadow: it is filled again, now and then."""
        stage = report.stage
        if report.code not in (ErrorCode.CACHE_GAP, ErrorCode.UNKNOWN_SESSION):
            session.behind.setdefault((stage, node), self._world.now_ms)
            return
        since_ms = session.behind.get((stage, node))
        if pipeline.state is not PipelineState.READY or not session.tokens:
            session.behind.setdefault((stage, node), self._world.now_ms)
        elif since_ms is None or self._world.now_ms - since_ms >= _FILL_AGAIN_MS:
            gap = report.code is ErrorCode.CACHE_GAP
            if not gap:
                session.holds[stage].discard(node)
            self._fill(session, pipeline, stage, node, report.length if gap else 0)

    def soon(self, session: Session) -> None:
        """Repair, but give a repair under way time to work: old messages may still come."""
        pipeline = _ring(session)
        grace_ms = max(_GRACE_MS, 3 * pipeline.token_ms) + self._work_ms(pipeline)
        at_ms = max(self._world.now_ms, session.repaired_ms + grace_ms)
        self._world.timers.set(("repair", session.handle), at_ms)

    def repair(self, handle: int) -> None:
        """Repair what stages have reported, unless a token has come since."""
        session = self._world.handles.get(handle)
        if session is None or session.pipeline is None:
            return
        pipeline = session.pipeline
        complete = all(
            slot.primary in held for slot, held in zip(pipeline.slots, session.holds, strict=True)
        )
        if pipeline.state not in _RUNNING or (complete and not session.gaps):
            return
        session.attempts += 1
        self._world.counters.repairs += 1
        if session.attempts > _MOST_ATTEMPTS:
            self.give_up(session, "the stages kept losing their place")
        elif session.attempts == 1 + _RELOAD_AFTER and not complete:
            self.reload(pipeline)
        elif session.attempts > 2:
            self.relayout(pipeline, reopen=session)
        else:
            self._mend(session, dict(session.gaps))

    def give_up(self, session: Session, text: str, code: str = "generation_failed") -> None:
        """End a session that cannot be repaired."""
        self.end(
            session,
            "error",
            code,
            f"{text}. The tokens so far are right; ask again, and see `maille nodes` and the "
            "coordinator's log",
        )


def _ring(session: Session) -> Pipeline:
    if session.pipeline is None:
        raise RuntimeError(f"session {session.handle} is on no pipeline")
    return session.pipeline


def _lacks(session: Session, pipeline: Pipeline, stage: int) -> int:
    """The first position that a shadow may lack which has just been made the primary."""
    place = stage, pipeline.slots[stage].primary
    if session.behind.pop(place, None) is not None:
        return 0
    return session.caught_up.get(place, max(0, session.length - _LAG_TOKENS))


def _runs(missing: dict[int, int]) -> list[tuple[int, int, int]]:
    """Runs of neighbouring stages: first, last, and the position that the first lacks."""
    runs: list[tuple[int, int, int]] = []
    for stage in sorted(missing):
        if runs and runs[-1][1] == stage - 1:
            first, _, position = runs[-1]
            runs[-1] = (first, stage, min(position, missing[stage]))
        else:
            runs.append((stage, stage, missing[stage]))
    return runs
