"""How a shell hands events to a core: one after the other, also where an action makes an event."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

__all__ = ["Feeder"]

Event = TypeVar("Event")
Action = TypeVar("Action")


class Feeder(Generic[Event, Action]):
    """The queue between a shell and its core.

    Args:
        handle: the core's `handle`.
        carry_out: does what the core wants; may feed, which is taken after the actions at hand.
        now_ms: the shell's clock.
    """

    def __init__(
        self,
        handle: Callable[[Event, float], Iterable[Action]],
        carry_out: Callable[[Action], None],
        now_ms: Callable[[], float],
    ) -> None:
        self._handle = handle
        self._carry_out = carry_out
        self._now_ms = now_ms
        self._queue: deque[Event] = deque()
        self._busy = False

    def feed(self, event: Event) -> bool:
        """Hand an event to the core and carry out what it wants, without nesting.

        Returns:
            Whether everything has been carried out; False where an earlier call does it.
        """
        queue = self._queue
        queue.append(event)
        if self._busy:
            return False
        self._busy = True
        try:
            while queue:
                for action in self._handle(queue.popleft(), self._now_ms()):
                    self._carry_out(action)
        finally:
            self._busy = False
        return True

    def stop(self) -> None:
        """Hand over nothing any more."""
        self._busy = True
