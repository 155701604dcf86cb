"""What a board says: numbered messages, and the list of actions for the shell.

Actions are tuples, the kind first: (PUBLISH, type, seq, epoch, body), (RUN, held), (SENSE, sense),
(MEASURE,), (BEGIN, model), (STORE, data), (FINISH, model), (EVICT, sha256), (NOTE, text),
(STOP, text).
"""

from micropython import const

from . import codes

PUBLISH = const(0)
RUN = const(1)
SENSE = const(2)
MEASURE = const(3)
BEGIN = const(4)
STORE = const(5)
FINISH = const(6)
EVICT = const(7)
NOTE = const(8)
STOP = const(9)

_RECENT_RUNS = const(7)


class Voice:
    """Collects actions; gives every message of this process its number.

    Args:
        boot: random and not 0, drawn when the process starts.
        info: body of NodeInfo.
        jitter: gives numbers from -1 to 1 that spread heartbeats.
        now_ms: the time of the start.
    """

    def __init__(self, boot: int, info: list, jitter, now_ms: int) -> None:
        self.boot = boot
        self.info = info
        self.epoch = 0
        self.up = False
        self.faults = 0
        self.heartbeat_at_ms = now_ms
        self._jitter = jitter
        self._started_ms = now_ms
        self._seq = 0
        self._recent_us: list = []
        self._actions: list = []

    def do(self, *action) -> None:
        """Want something done, after all that was wanted before."""
        self._actions.append(action)

    def note(self, text: str) -> None:
        """Want a line in the log."""
        self._actions.append((NOTE, text))

    def taken(self) -> list:
        """All that is wanted, once."""
        actions = self._actions
        self._actions = []
        return actions

    def publish(self, kind: int, body) -> None:
        """Want a message sent, if anyone hears it."""
        if self.up:
            self._seq += 1
            self._actions.append((PUBLISH, kind, self._seq, self.epoch, body))

    def has_run(self, run_us: int) -> None:
        """Take the time of one run into the heartbeats' median."""
        self._recent_us.append(run_us)
        if len(self._recent_us) > _RECENT_RUNS:
            self._recent_us.pop(0)

    def heartbeat(
        self, held: dict, running: int, warm: list, now_ms: int, everything: bool
    ) -> None:
        """Send a heartbeat and set the time of the next.

        Args:
            held: all tasks; named are those held for half an interval, or with `everything` all.
            running: how many of them run.
            warm: SHA-256 of the models held.
            now_ms: the time.
            everything: see `held`.
        """
        interval = codes.HEARTBEAT_INTERVAL_MS
        self.heartbeat_at_ms = now_ms + interval + int(self._jitter() * interval / 10)
        since_ms = now_ms if everything else now_ms - interval // 2
        named = [(t.task_id, t.attempt) for t in held.values() if t.accepted_ms <= since_ms]
        recent = sorted(self._recent_us)
        self.publish(
            codes.HEARTBEAT,
            (
                now_ms - self._started_ms,
                running,
                len(held) - running,
                recent[len(recent) // 2] if recent else 0,
                None,
                [sha256[:8] for sha256 in warm],
                named,
            ),
        )
