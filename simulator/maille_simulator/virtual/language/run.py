"""What outlives the processes of a run with a language model: journal, disks, readers; the checks."""

from maille_simulator.virtual.language.journal import SessionJournal
from maille_simulator.virtual.language.plan import LanguagePlan
from maille_simulator.virtual.language.readers import Desk, Readers
from maille_simulator.virtual.schedule import Schedule
from maille_simulator.virtual.violation import Violation


class LanguageRun:
    """One language model in one run.

    Args:
        schedule: the virtual clock.
        plan: the model and what is asked of it.
        desk: where readers ask.
        calm_ms: who asks later than this must get an answer, not an error.
    """

    def __init__(
        self, schedule: Schedule, plan: LanguagePlan, desk: Desk, *, calm_ms: float
    ) -> None:
        self.plan = plan
        self.journal = SessionJournal()
        self.readers = Readers(schedule, plan, desk, calm_ms=calm_ms)
        self._disks: dict[str, set[bytes]] = {}

    def disk(self, node: str) -> set[bytes]:
        """What lies on a machine's disk."""
        return self._disks.setdefault(node, set())

    def check_ends(self) -> None:
        """Violation if a generation did not come to an end."""
        hung = self.readers.open()
        if hung:
            reading = self.readers.readings[hung[0]]
            kept = self.journal.sessions.get(hung[0])
            where = "unknown to the journal" if kept is None else "open in the journal"
            text = (
                f"{len(hung)} generations hang; {hung[0]} has {len(reading.tokens)} of "
                f"{len(reading.expected)} tokens and is {where}"
            )
            raise Violation("no generation hangs", text)
