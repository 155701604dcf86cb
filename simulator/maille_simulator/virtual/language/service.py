"""A virtual coordinator's language models: the real core, with a shell that can die at any step."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from maille_coordinator.core import Core
from maille_coordinator.language import actions as wanted
from maille_coordinator.language import events as happened
from maille_coordinator.language.core import LanguageCore
from maille_coordinator.language.node_watch import NodeWatch
from maille_coordinator.language.records import SessionStart
from maille_protocol import Message
from maille_protocol.topics import Topic
from maille_simulator.virtual.language.run import LanguageRun
from maille_simulator.virtual.violation import Violation


class VirtualLanguage:
    """What the real `LanguageService` is, for one process of the coordinator.

    Args:
        run: the model, limits and times; what an earlier process has left; who reads.
        epoch: of this process.
        now_ms: its clock.
        later: calls something after so many ms, if the process lives then.
        send: publishes a message to a node.
        dies: whether the process ends at this step ("before commit", "after commit").
    """

    def __init__(
        self,
        run: LanguageRun,
        *,
        epoch: int,
        now_ms: Callable[[], float],
        later: Callable[[float, Callable[[], None]], None],
        send: Callable[[Topic, str, Message], None],
        dies: Callable[[str], bool],
    ) -> None:
        self._plan = run.plan
        self._journal = run.journal
        self._readers = run.readers
        self._now_ms = now_ms
        self._later = later
        self._send = send
        self._dies = dies
        self._dead = False
        self._watch = NodeWatch()
        self._wake = 0
        self.core = LanguageCore(epoch=epoch, limits=run.plan.limits)
        self.was_read = False
        """Whether the model's file has been read: nobody can ask before."""
        self._counts = {
            name: len(kept.tokens)
            for name, kept in run.journal.sessions.items()
            if kept.end is None
        }
        self.take(run.journal.restored())
        later(run.plan.read_ms, self._read)

    def _read(self) -> None:
        self.was_read = True
        model = self._plan.model
        self.take(happened.ModelAdded(model.key, model.shape, model.context_tokens, (1, 2)))
        self._readers.resume(self, self._journal)

    # --- in --------------------------------------------------------------------------------

    def observe(self, core: Core, heard: Iterable[tuple[str, int, Message]]) -> None:
        """As `LanguageService.observe`: after each round of the task core."""
        for event in self._watch.observe(core, heard):
            self.take(event)

    def ask(self, start: SessionStart) -> None:
        """Somebody wants a generation."""
        self._counts[start.session] = 0
        self.take(happened.SessionAsked(start))

    def take(self, event: happened.Event) -> None:
        """Hand an event to the core and do what it wants."""
        if self._dead:
            return
        self._carry_out(self.core.handle(event, self._now_ms()))
        if self.core.counters.tokens_contradicting:
            raise Violation("tokens do not depend on where they are made", "one came again changed")

    # --- out -------------------------------------------------------------------------------

    def _carry_out(self, actions: Sequence[wanted.Action]) -> None:
        records = [action.record for action in actions if isinstance(action, wanted.WriteSession)]
        if records:
            if self._die("before commit"):
                return
            self._journal.commit(records)
            if self._die("after commit"):
                return
        for action in actions:
            match action:
                case wanted.SendToStage(node, message):
                    self._send(action.topic, node, message)
                case wanted.TokenOut(session, index, token):
                    self._token(session, index, token.token)
                case wanted.SessionEnded(session, finish, code, text):
                    self._readers.ended(session, finish, code, text)
                case wanted.CutSlice(key, first, last, with_ends):
                    found = self._plan.model.reference(first, last, with_ends=with_ends)
                    cut = happened.SliceCut(key, first, last, with_ends, found)
                    self._later(self._plan.cut_ms, partial(self.take, cut))
                case wanted.WakeAt(at_ms):
                    self._wake += 1
                    delay_ms = max(0.0, at_ms - self._now_ms())
                    self._later(delay_ms, partial(self._woken, self._wake))
                case _:
                    pass  # reports are for people

    def _die(self, step: str) -> bool:
        self._dead = self._dead or self._dies(step)
        return self._dead

    def _token(self, session: str, index: int, token: int) -> None:
        count = self._counts.get(session)
        if index != count:
            text = f"{session} gives out token {index} after {count} tokens"
            raise Violation("each token comes once, in order", text)
        self._counts[session] = index + 1
        self._readers.token(session, index, token)

    def _woken(self, number: int) -> None:
        if number == self._wake:
            self.take(happened.TimeReached())
