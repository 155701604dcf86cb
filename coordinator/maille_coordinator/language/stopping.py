"""Finds stop texts in an answer that comes bit by bit, however it was cut up."""

from collections.abc import Iterable

MOST_STOPS = 16
MOST_STOP_LENGTH = 512


class StopMatcher:
    """Watches one answer. Lets through only what cannot be the beginning of a stop text."""

    def __init__(self, stops: Iterable[str]) -> None:
        """Start watching; ValueError for an empty, too long or too many stop texts."""
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        """Whether a stop text was found."""
        if len(self._stops) > MOST_STOPS:
            raise ValueError(f"{len(self._stops)} stop texts: give at most {MOST_STOPS}")
        if any(not 1 <= len(stop) <= MOST_STOP_LENGTH for stop in self._stops):
            raise ValueError(
                f"a stop text has 1 to {MOST_STOP_LENGTH} characters: shorten it or leave it out"
            )

    def add(self, text: str) -> str:
        """What is certain after some more text; nothing once a stop text was found."""
        if self.stopped:
            return ""
        held = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            # The one that is complete first; of those, the longest.
            self.stopped = True
            self._held = ""
            return held[: min(found)[1]]
        cut = len(held) - self._possible(held)
        self._held = held[cut:]
        return held[:cut]

    def end(self, text: str = "") -> str:
        """What is left when no more comes."""
        certain = self.add(text)
        held, self._held = self._held, ""
        return certain + held

    def _possible(self, text: str) -> int:
        """Length of the longest end of a text that begins a stop text."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
