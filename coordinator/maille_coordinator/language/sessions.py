"""Generations: taken on, queued, started, given their tokens, ended."""

from collections.abc import Callable, Iterable

from maille_coordinator.language.actions import SessionEnded, SessionShared, TokenOut
from maille_coordinator.language.beginnings import Beginnings
from maille_coordinator.language.events import RestoredSession
from maille_coordinator.language.orders import close_order, resend_order
from maille_coordinator.language.records import SessionEnd, SessionStart, SessionTokens
from maille_coordinator.language.repair import Repairs
from maille_coordinator.language.state import (
    Model,
    ModelState,
    Pipeline,
    PipelineState,
    Session,
    World,
)
from maille_coordinator.placement.shortage import format_bytes
from maille_protocol import Finish, SessionCommand, SessionOrder, Token, Tokens

_WRITE_EVERY_MS = 250.0
_WRITE_TOKENS = 32
_RESEND_EVERY_MS = 50.0
_CLOSE_AGAIN_MS = 700.0
IMPOSSIBLE_MS = 5000.0
"""Nodes that start one after the other come within this time."""
_MAX_FAILURES = 8
"""Repairs of one session without a token between them."""


class Sessions:
    """Keeps the sessions of the world."""

    def __init__(self, world: World, repairs: Repairs) -> None:
        self._world = world
        self._beginnings = Beginnings(world)
        self._repairs = repairs
        self._closing: dict[int, list[tuple[str, SessionOrder]]] = {}
        self.checked: Callable[[Session, str, str], None]
        """Told how the first round of a new ring ended: the session, its finish, a text."""
        self.token_came: Callable[[Pipeline], None]
        """Told at the end of each token of somebody's generation."""
        self.freed: Callable[[Pipeline], None]
        """Told that a pipeline has one session less."""

    @property
    def closing(self) -> int:
        """Sessions whose end the nodes are still to be told a second time."""
        return len(self._closing)

    # --- taking on -------------------------------------------------------------------------

    def ask(self, start: SessionStart) -> None:
        """A new generation."""
        world = self._world
        refusal = self._refusal(start)
        if refusal is not None:
            world.counters.sessions_refused += 1
            world.add(SessionEnded(start.session, "error", *refusal))
            return
        world.counters.sessions_accepted += 1
        world.write(start)
        self._take(start, ())

    def restore(self, restored: Iterable[RestoredSession]) -> None:
        """Generations of an earlier run."""
        for old in restored:
            self._take(old.start, old.tokens)

    def _take(self, start: SessionStart, tokens: tuple[Token, ...]) -> None:
        world = self._world
        model = world.models.get((start.model, start.version))
        session = Session(start, world.next_handle(), world.now_ms)
        session.tokens = list(tokens)
        session.written = len(tokens)
        world.sessions[start.session] = session
        world.handles[session.handle] = session
        if self._finished(session):
            return
        world.timers.set(("wait", session.handle), world.now_ms + world.limits.patience_ms)
        if model is None:
            world.early.setdefault((start.model, start.version), []).append(session)
        else:
            model.queue.append(session)
            self.start_waiting(model)

    def _refusal(self, start: SessionStart) -> tuple[str, str] | None:
        world = self._world
        model = world.models.get((start.model, start.version))
        if start.session in world.sessions:
            return "response_exists", f"a response {start.session} is being made: choose another id"
        if model is None:
            return "unknown_model", f"no language model {start.model!r} version {start.version}"
        if start.capacity > model.context_length:
            return "context_too_long", (
                f"{len(start.prompt)} tokens of prompt and {start.max_tokens} of answer are more "
                f"than the model's context of {model.context_length}: shorten one of them"
            )
        room = self._room(model)
        if start.capacity > room:
            shape = model.shape
            missing = (start.capacity - room) * shape.kv_bytes_per_token * len(shape.layers)
            return "cache_too_small", (
                f"{start.capacity} tokens of prompt and answer need more cache than the pipeline "
                f"has ({room} tokens): {format_bytes(missing)} are missing. Shorten the prompt or "
                "max_tokens, or start the coordinator with a larger --context"
            )
        since_ms = model.impossible_since_ms
        if since_ms is not None and world.now_ms - since_ms >= IMPOSSIBLE_MS:
            return "model_impossible", model.text
        if len(model.queue) >= world.limits.max_queued:
            return "queue_full", (
                f"{len(model.queue)} generations wait already: try again when some have ended"
            )
        return None

    def refuse_waiting(self, model: Model) -> None:
        """No nodes can hold the model, and that stays so: those that have not begun need not wait."""
        if model.impossible_since_ms is None:
            return
        for session in [session for session in model.queue if not session.tokens]:
            self.end(session, "error", "model_impossible", model.text)

    def _room(self, model: Model) -> int:
        if model.pipeline is not None:
            return model.pipeline.cache_tokens
        limits = self._world.limits
        return min(limits.context_tokens, model.context_length) * limits.sessions

    def waited(self, handle: int) -> None:
        """A session's patience is over."""
        session = self._world.handles.get(handle)
        if session is None:
            return
        model = self._world.models.get((session.start.model, session.start.version))
        if session.pipeline is not None and session.pipeline.state is PipelineState.READY:
            return
        waits = self._world.limits.patience_ms / 1000
        if model is None:
            code, text = "unknown_model", f"model {session.start.model} is gone"
        elif model.state is ModelState.READY:
            code, text = "queue_full", f"no room came free in {waits:g} s: try again later"
        else:
            code, text = "model_unavailable", f"waited {waits:g} s: {model.text}"
        self.end(session, "error", code, text)

    # --- running ---------------------------------------------------------------------------

    def start_waiting(self, model: Model) -> None:
        """Start what waits and fits."""
        pipeline = model.pipeline
        if pipeline is None or pipeline.state is not PipelineState.READY:
            return
        while model.queue:
            session = model.queue[0]
            if pipeline.sessions and (
                pipeline.used_tokens + session.start.capacity > pipeline.cache_tokens
            ):
                return
            model.queue.pop(0)
            self.attach(session, pipeline)

    def attach(self, session: Session, pipeline: Pipeline) -> None:
        """Run a session on a pipeline, from the beginning or from where it is."""
        session.pipeline = pipeline
        session.attempts = 0
        session.rounds_ms.clear()
        pipeline.sessions[session.handle] = session
        self._world.timers.cancel(("wait", session.handle))
        self._beginnings.begin(session, pipeline)
        self._repairs.open(session)
        self._beginnings.make_room(pipeline)
        if not session.check:
            self._world.add(SessionShared(session.start.session, session.shared))

    def detach(self, session: Session, *, over: bool = False) -> None:
        """Free a session's caches; it may go on elsewhere, or is over and leaves them to others."""
        pipeline, session.pipeline = session.pipeline, None
        world = self._world
        world.timers.cancel(("session", session.handle))
        if pipeline is None:
            return
        pipeline.sessions.pop(session.handle, None)
        if over:
            orders = self._beginnings.last_orders(session, pipeline)
        else:
            orders = [
                (node, close_order(session, pipeline))
                for slot in pipeline.slots
                for node in slot.routed
            ]
        for node, order in orders:
            world.send(node, order)
        # Publishes get lost when a connection breaks, and memory must not wait for minutes.
        self._closing[session.handle] = orders
        world.timers.set(("close", session.handle), world.now_ms + _CLOSE_AGAIN_MS)

    def put_back(self, session: Session) -> None:
        """Let a session wait for room, before those that have not begun."""
        world = self._world
        self.detach(session)
        model = world.models.get((session.start.model, session.start.version))
        if model is not None:
            model.queue.insert(0, session)
            world.timers.set(("wait", session.handle), world.now_ms + world.limits.patience_ms)

    def close_again(self, handle: int) -> None:
        """Say once more that a session is over."""
        for node, order in self._closing.pop(handle, []):
            session = self._world.handles.get(handle)
            if (
                session is None
                or session.pipeline is None
                or (session.pipeline.number != order.pipeline)
            ):
                self._world.send(node, order)

    def cancel(self, name: str, finish: str) -> None:
        """Nobody wants the rest."""
        session = self._world.sessions.get(name)
        if session is not None:
            self.end(session, finish, "", "")

    def end(self, session: Session, finish: str, code: str, text: str) -> None:
        """A generation is over; `finish` as in the journal."""
        world = self._world
        if world.handles.pop(session.handle, None) is None:
            return
        pipeline = session.pipeline
        self.detach(session, over=finish in ("stop", "length"))
        for kind in ("wait", "write"):
            world.timers.cancel((kind, session.handle))
        if session.check:
            self.checked(session, finish, text)
            return
        world.sessions.pop(session.start.session, None)
        self._write_tokens(session)
        world.write(SessionEnd(session.start.session, finish, code, text, int(world.now_ms)))
        if finish == "error":
            world.counters.sessions_failed += 1
            world.report("session.failed", session.start.session, text)
        world.add(SessionEnded(session.start.session, finish, code, text))
        model = world.models.get((session.start.model, session.start.version))
        if model is not None:
            if session in model.queue:
                model.queue.remove(session)
            self._measure(session, model)
            if pipeline is not None:
                self.start_waiting(model)
                self.freed(pipeline)
        for waiting in world.early.values():
            if session in waiting:
                waiting.remove(session)

    def _measure(self, session: Session, model: Model) -> None:
        if len(session.rounds_ms) == 2 and len(session.tokens) > 8:
            took_ms = session.rounds_ms[1] - session.rounds_ms[0]
            model.measured_tokens_per_s = 1000 * (len(session.tokens) - 1) / max(took_ms, 1e-3)

    # --- tokens ----------------------------------------------------------------------------

    def tokens(self, node: str, message: Tokens) -> None:
        """Tokens of an answer; those that are known already are only compared."""
        world = self._world
        session = world.handles.get(message.session)
        pipeline = None if session is None else session.pipeline
        if session is None or pipeline is None or pipeline.number != message.pipeline:
            world.counters.strays += 1
            of = world.pipelines.get(message.pipeline)
            if of is not None and message.session in of.kept:
                return  # it came from before the ring was stopped
            # A ring that nobody reads any more: take its last stage out.
            world.send(
                node, SessionOrder(SessionCommand.CLOSE, message.pipeline, 0, message.session)
            )
            return
        if node not in pipeline.slots[-1].routed:
            world.counters.strays += 1
            return
        if message.finish is Finish.FAILED:
            self._failed(session, message.text)
            return
        for offset, token in enumerate(message.tokens):
            position = message.position + offset
            if position < session.length:
                self._compare(session, position, token)
            elif position > session.length:
                self._ask_again(session, pipeline)
                return
            else:
                self._append(session, pipeline, token)
                if self._finished(session):
                    return
                self.token_came(pipeline)

    def _append(self, session: Session, pipeline: Pipeline, token: Token) -> None:
        world = self._world
        now_ms = world.now_ms
        session.tokens.append(token)
        if len(session.tokens) > 1 and not session.attempts and session.rounds_ms:
            took_ms = now_ms - session.progress_ms
            pipeline.token_ms += 0.2 * (took_ms - pipeline.token_ms)
        session.rounds_ms = [session.rounds_ms[0] if session.rounds_ms else now_ms, now_ms]
        session.attempts = session.pending = 0
        session.pinged_ms = None
        session.gaps.clear()
        session.progress_ms = now_ms
        self._repairs.watch(session)
        if session.check:
            return
        world.counters.tokens += 1
        world.add(TokenOut(session.start.session, len(session.tokens) - 1, token))
        if len(session.tokens) - session.written >= _WRITE_TOKENS:
            self._write_tokens(session)
        elif len(session.tokens) - session.written == 1:
            world.timers.set(("write", session.handle), now_ms + _WRITE_EVERY_MS)

    def _compare(self, session: Session, position: int, token: Token) -> None:
        counters = self._world.counters
        counters.tokens_again += 1
        index = position - len(session.start.prompt)
        if index >= 0 and session.tokens[index].token != token.token:
            counters.tokens_contradicting += 1

    def _ask_again(self, session: Session, pipeline: Pipeline) -> None:
        world = self._world
        if world.now_ms - session.resend_ms >= _RESEND_EVERY_MS:
            session.resend_ms = world.now_ms
            world.send(pipeline.slots[-1].primary, resend_order(session, pipeline))

    def _finished(self, session: Session) -> bool:
        """Whether the known tokens are all there will be; ends the session then."""
        tokens, start = session.tokens, session.start
        if tokens and tokens[-1].token in start.end_tokens:
            self.end(session, "stop", "", "")
        elif len(tokens) >= start.max_tokens:
            self.end(session, "length", "", "")
        else:
            return False
        return True

    def _failed(self, session: Session, text: str) -> None:
        session.attempts += 1
        if session.attempts > _MAX_FAILURES or session.check:
            self._repairs.give_up(session, text or "the last stage failed")
        else:
            self._repairs.soon(session)

    def write_soon(self, handle: int) -> None:
        """Tokens have waited long enough for the journal."""
        session = self._world.handles.get(handle)
        if session is not None:
            self._write_tokens(session)

    def _write_tokens(self, session: Session) -> None:
        if session.written < len(session.tokens):
            new = tuple(session.tokens[session.written :])
            self._world.write(SessionTokens(session.start.session, session.written, new))
            session.written = len(session.tokens)
