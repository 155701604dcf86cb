"""When a generation ends: an end token, a stop string, or the most tokens wished."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from maille_node.language.errors import SettingsOutOfRange

__all__ = ["StopMatcher", "StopReason", "StopStep"]

MOST_STOPS = 16
MOST_STOP_LENGTH = 512


class StopReason(StrEnum):
    """Why a generation ended, with OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class StopStep:
    """What one token adds.

    Attributes:
        text: now certain to be part of the answer.
        reason: why this token was the last one; None if it was not.
        matched: the stop string that ended it, None for another reason.
    """

    text: str
    reason: StopReason | None = None
    matched: str | None = None


class StopMatcher:
    """Watches one generation. The text it lets through does not depend on how it was cut up."""

    def __init__(
        self,
        stops: Iterable[str] = (),
        end_tokens: Iterable[int] = (),
        max_tokens: int | None = None,
    ) -> None:
        """Start watching.

        Args:
            stops: texts before which the answer ends; they are no part of it.
            end_tokens: tokens that end it.
            max_tokens: how many tokens it may have, an end token included.

        Raises:
            SettingsOutOfRange: an empty, too long or too many stop strings, or no token allowed.
        """
        self._stops = tuple(stops)
        self._end_tokens = frozenset(end_tokens)
        self._left = max_tokens
        self._held = ""
        self._step: StopStep | None = None
        if len(self._stops) > MOST_STOPS:
            raise SettingsOutOfRange(f"{len(self._stops)} stop strings; give at most {MOST_STOPS}")
        if any(not 1 <= len(stop) <= MOST_STOP_LENGTH for stop in self._stops):
            raise SettingsOutOfRange(
                f"a stop string has 1 to {MOST_STOP_LENGTH} characters; shorten it or leave it out"
            )
        if max_tokens is not None and max_tokens < 1:
            raise SettingsOutOfRange(f"max_tokens is {max_tokens}; it is at least 1")

    @property
    def finished(self) -> bool:
        """Whether the generation has ended."""
        return self._step is not None

    def add(self, token: int, text: str) -> StopStep:
        """Take one more token and the text it adds (with held-back bytes, maybe none).

        Raises:
            RuntimeError: the generation has ended.
        """
        if self._step is not None:
            raise RuntimeError("the generation has ended; start another matcher")
        if self._left is not None:
            self._left -= 1
        if token in self._end_tokens:
            return self._end(StopStep(self._held, StopReason.STOP))
        held = self._held + text
        end, stop = min(
            ((at + len(stop), stop) for stop in self._stops if (at := held.find(stop)) >= 0),
            key=lambda found: (found[0], -len(found[1])),
            default=(0, None),
        )
        if stop is not None:
            return self._end(StopStep(held[: end - len(stop)], StopReason.STOP, stop))
        if self._left == 0:
            return self._end(StopStep(held, StopReason.LENGTH))
        cut = len(held) - self._possible(held)
        self._held = held[cut:]
        return StopStep(held[:cut])

    def finish(self, text: str = "") -> str:
        """What is left when no more tokens come, or after `add` gave a reason.

        Args:
            text: that a decoder still held. Dropped after a stop string; otherwise it is looked
                through for one.
        """
        if self._step is not None and self._step.matched is not None:
            return ""
        held = self._held + text
        self._held = ""
        found = [
            (at + len(stop), len(stop)) for stop in self._stops if (at := held.find(stop)) >= 0
        ]
        end, length = min(found, key=lambda pair: (pair[0], -pair[1]), default=(len(held), 0))
        return held[: end - length]

    def _end(self, step: StopStep) -> StopStep:
        self._step = step
        self._held = ""
        return step

    def _possible(self, text: str) -> int:
        """Length of the longest end of a text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
