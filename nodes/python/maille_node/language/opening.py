"""Sessions of a stage: room made for them, what they are told, kept for others, closed."""

from dataclasses import replace

from maille_node.language import stage_events as events
from maille_node.language.choosing import Answer, settings_of, uint32s
from maille_node.language.errors import SettingsOutOfRange
from maille_node.language.sending import Sender
from maille_node.language.sessions import HeldStage, Session
from maille_node.language.stage_events import SliceFacts, StageAction
from maille_node.language.waiting import Sent
from maille_protocol import ErrorCode, Finish, SessionOrder, StageReport, StageState

__all__ = ["Opener"]

EXPIRY_MS = 120_000.0
KEPT_EXPIRY_MS = 1_200_000.0
IDLE_MS = 5000.0
"""A session that nobody has spoken of for so long gives way to one that needs its room."""
MAX_SESSIONS = 256
MAX_KEPT = 256
_ENDLESS = 1 << 40


class Opener:
    """Opens, keeps and closes the sessions of stages."""

    def __init__(self, sender: Sender, actions: list[StageAction]) -> None:
        self._sender = sender
        self._actions = actions
        self._caches = 0

    def open(self, held: HeldStage, order: SessionOrder, sent: Sent, now_ms: float) -> bool:
        """Make room for a session, or tell the last stage more about one that is here.

        Tokens are work for a stage 0 that has not had the session yet, and for the last stage
        what is known before the next token. An OPEN with sampling also ends the prompt: tokens of
        later ones are answer.

        Returns:
            Whether the order's tokens are to be computed now.
        """
        facts = held.facts
        if facts is None:
            self._sender.fail(held, order.session, ErrorCode.BUSY, "the slice is still loading")
            return False
        session = held.sessions.get(order.session)
        if session is not None and session.sent.overtaken_by(sent):
            session.sent = sent
        if session is not None and replace(order, layout=session.opened.layout) == session.opened:
            session.touched_ms = now_ms
            return False
        tokens = uint32s(order.tokens)
        if tokens and max(tokens) >= facts.vocabulary_size:
            text = f"a token of {max(tokens)}, the model has {facts.vocabulary_size}"
            self._sender.fail(held, order.session, ErrorCode.INPUT_MALFORMED, text)
            return False
        made = session is None
        if session is None:
            session = self._make(held, facts, order, sent, now_ms)
            if session is None:
                return False
        refusal = _refusal(facts, session, order, tokens)
        if refusal is None:
            session.touched_ms = now_ms
            # A prompt that one stage alone gets in pieces is started by the coordinator.
            whole = order.sampling is not None or not facts.with_head
            return facts.with_embedding and bool(tokens) and made and whole
        self._sender.fail(held, order.session, *refusal)
        if made:
            self.close(held, order.session)
        return False

    def _make(
        self,
        held: HeldStage,
        facts: SliceFacts,
        order: SessionOrder,
        sent: Sent,
        now_ms: float,
    ) -> Session | None:
        capacity = order.capacity
        if not 0 < capacity <= facts.context_length:
            text = f"{capacity} positions asked for, the model has {facts.context_length}"
            self._sender.fail(held, order.session, ErrorCode.INPUT_TOO_LARGE, text)
            return None
        source = held.kept.get(order.source)
        if source is not None:
            held.kept.move_to_end(source.number)
            source.touched_ms = now_ms
        needed = held.session_bytes(facts, capacity)
        free = self._make_room(held, needed, keep=source)
        if needed > free:
            free = self._give_up_idle(held, facts, needed, free, now_ms)
        if needed > free and source is not None:
            # The copy is made before the cache is freed.
            free += held.session_bytes(facts, source.length)
        if needed > free or len(held.sessions) >= MAX_SESSIONS:
            self._refuse(held, order, needed, max(0, free))
            return None
        self._caches += 1
        session = Session(order.session, self._caches, capacity, now_ms, order, sent)
        held.sessions[order.session] = session
        if source is not None:
            self._share(held, source, session, min(order.shared, source.length, capacity))
            self._make_room(held, 0)
        return session

    def _share(self, held: HeldStage, source: Session, session: Session, count: int) -> None:
        if count <= 0:
            return
        session.length = count
        session.history = source.history.beginning(count)
        self._actions.append(
            events.ShareCache(
                held.reference.sha256, source.cache, session.cache, session.capacity, count
            )
        )

    def _make_room(self, held: HeldStage, needed: int, keep: Session | None = None) -> int:
        """Give up what is kept, the longest unused first, until there is room; what is free."""
        free = held.cache_limit_bytes - held.reserved_bytes()
        facts = held.facts
        for session in list(held.kept.values()):
            if needed <= free or facts is None:
                break
            if session is not keep:
                free += held.session_bytes(facts, session.length)
                self.close(held, session.number)
        return free

    def _give_up_idle(
        self, held: HeldStage, facts: SliceFacts, needed: int, free: int, now_ms: float
    ) -> int:
        """Give up sessions whose end was lost, the longest silent first; what is free then.

        One that was only slow is opened anew by the coordinator when it is missed.
        """
        for session in sorted(held.sessions.values(), key=lambda found: found.touched_ms):
            if needed <= free or now_ms - session.touched_ms < IDLE_MS:
                break
            free += held.session_bytes(facts, session.capacity)
            self.close(held, session.number)
        return free

    def _refuse(self, held: HeldStage, order: SessionOrder, needed: int, free: int) -> None:
        text = (
            f"a session of {order.capacity} positions needs {needed} bytes, {free} of "
            f"{held.cache_limit_bytes} are free: close a session or ask for a shorter context"
        )
        self._sender.say(
            StageReport(
                StageState.FAILED,
                held.pipeline,
                held.stage,
                held.nonce,
                ErrorCode.CACHE_FULL,
                text,
                resident_bytes=needed,
                free_bytes=free,
                session=order.session,
            )
        )

    def keep(self, held: HeldStage, number: int, length: int, now_ms: float) -> None:
        """A session is over; its cache stays for others to begin with, if it holds anything."""
        session = held.sessions.pop(number, None)
        if session is None:
            return
        session.closed = True
        session.drop_queue()
        session.answer = None
        session.length = min(session.length, length)
        session.history.cut(session.length)
        session.touched_ms = now_ms
        if not session.length or number in held.kept:
            # The one that is kept already has all that is counted on.
            self._actions.append(events.FreeCache(session.cache))
            return
        held.kept[number] = session
        if len(held.kept) > MAX_KEPT:
            self.close(held, next(iter(held.kept)))

    def close(self, held: HeldStage, number: int) -> None:
        """Free everything of a session, open or kept, if it is here."""
        session = held.sessions.pop(number, None) or held.kept.pop(number, None)
        if session is not None:
            session.closed = True
            session.drop_queue()
            self._actions.append(events.FreeCache(session.cache))

    def expired(self, held: HeldStage, now_ms: float) -> list[int]:
        """Sessions that nobody has spoken of for two minutes, and those kept for too long."""
        return [
            session.number
            for sessions, expiry_ms in ((held.sessions, EXPIRY_MS), (held.kept, KEPT_EXPIRY_MS))
            for session in sessions.values()
            if session.touched_ms + expiry_ms <= now_ms
        ]


def _refusal(
    facts: SliceFacts, session: Session, order: SessionOrder, tokens: list[int]
) -> tuple[ErrorCode, str] | None:
    """Why an OPEN cannot be obeyed; tells the last stage what is in it."""
    if order.position + len(tokens) > session.capacity:
        return ErrorCode.INPUT_TOO_LARGE, (
            f"{order.position + len(tokens)} tokens do not fit the {session.capacity} "
            "positions of the session; open it with more"
        )
    if not facts.with_head:
        return None
    known = 0 if session.answer is None else len(session.answer.tokens)
    if order.position > known:
        text = f"tokens from position {order.position}, {known} are known"
        return ErrorCode.UNKNOWN_SESSION, text
    try:
        _learn(session, order, tokens)
    except SettingsOutOfRange as error:
        return ErrorCode.INPUT_MALFORMED, str(error)
    return None


def _learn(session: Session, order: SessionOrder, tokens: list[int]) -> None:
    """Take what an OPEN tells the last stage.

    Raises:
        SettingsOutOfRange: a setting is out of its range.
    """
    settings = None if order.sampling is None else settings_of(order.sampling)
    answer = session.answer
    if answer is None:
        answer = Answer(settings, session.capacity)
    elif settings is not None:
        answer.settings = settings
    answer.learn(order.position, tokens)
    if order.sampling is not None:
        answer.grammar = order.sampling.grammar
        answer.end_tokens = frozenset(uint32s(order.end_tokens))
        answer.prompt_length = order.position + len(tokens)
        answer.stop = answer.prompt_length + (order.max_tokens or _ENDLESS)
        answer.finish = Finish.NONE
    session.answer = answer
