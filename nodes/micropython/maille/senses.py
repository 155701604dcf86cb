"""Models that run on a board's own sensors, again and again (section 13)."""

from micropython import const

from . import codes
from .voice import Voice

MAX_SENSES = const(4)
_SHORTEST_MS = const(1)


class Sense:
    """One assignment."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.counter = 0
        self.due_ms = 0
        self.published = None
        self.failing = False
        self.settings = None


class Senses:
    """What runs on which sensor, and when. No I/O, no clock.

    Args:
        voice: where readings go.
        sensors: numbers in one reading (0: as many as wanted), by the sensor's name.
    """

    def __init__(self, voice: Voice, sensors: dict) -> None:
        self.all: dict = {}
        self.sensors = sensors
        self._voice = voice

    def uses(self, sha256: bytes) -> bool:
        """Whether any sense needs that model."""
        return any([sense.sha256 == sha256 for sense in self.all.values()])

    def start(self, body: list, model, now_ms: int) -> bool:
        """Obey START; whether anything changed."""
        _, number, sha256, sensor, interval_ms, mode = body
        values = self.sensors.get(sensor)
        if model is None:
            return self._refuse(number, codes.MODEL_NOT_HELD, "the model was not delivered here")
        if values is None:
            return self._refuse(number, codes.NO_SUCH_SENSOR, "no sensor named " + sensor)
        if not model.input_values or values not in (0, model.input_values):
            text = "the sensor gives {} numbers, the model takes {}".format(
                values, model.input_values
            )
            return self._refuse(number, codes.INPUT_SHAPE, text)
        sense = self.all.get(number)
        if sense is None:
            if len(self.all) >= MAX_SENSES:
                text = "this board runs at most {} senses".format(MAX_SENSES)
                return self._refuse(number, codes.NO_SPACE, text)
            sense = self.all[number] = Sense(number)
        elif sense.settings == (sha256, sensor, interval_ms, mode):
            return False
        sense.settings = (sha256, sensor, interval_ms, mode)
        sense.sha256, sense.sensor, sense.interval_ms, sense.mode = sense.settings
        sense.due_ms = now_ms
        return True

    def _refuse(self, number: int, code: int, text: str) -> bool:
        self._say(number, 0, 0, code, text.encode(), 0)
        return False

    def _say(
        self, number: int, counter: int, age_ms: int, code: int, content: bytes, run_us: int
    ) -> None:
        reading = (number, counter, age_ms, code, content, run_us)
        self._voice.publish(codes.READINGS, (reading,))

    def stop(self, number: int) -> bool:
        """Obey STOP; whether anything changed."""
        return self.all.pop(number, None) is not None

    def stop_model(self, sha256: bytes) -> None:
        """End all senses of a model that goes."""
        for number in [n for n, sense in self.all.items() if sense.sha256 == sha256]:
            del self.all[number]

    def keep(self, sha256s: list) -> None:
        """End the senses of all other models."""
        for number in [n for n, sense in self.all.items() if sense.sha256 not in sha256s]:
            del self.all[number]

    def due(self, now_ms: int):
        """The sense that has waited longest for its run, if one is due; its next is set."""
        found = None
        for sense in self.all.values():
            if sense.due_ms <= now_ms and (found is None or sense.due_ms < found.due_ms):
                found = sense
        if found is not None:
            step_ms = max(found.interval_ms, _SHORTEST_MS)
            # What could not begin in time is left out.
            found.due_ms += step_ms * (1 + (now_ms - found.due_ms) // step_ms)
            found.counter += 1
        return found

    def next_ms(self):
        """When the next run is due."""
        return min([sense.due_ms for sense in self.all.values()]) if self.all else None

    def sensed(self, sense: Sense, code: int, content: bytes, run_us: int, age_ms: int) -> None:
        """A run is over: publish what its mode asks for."""
        if self.all.get(sense.number) is not sense:
            return
        if code:
            if not sense.failing:
                self._say(sense.number, sense.counter, age_ms, code, content, run_us)
            sense.failing = True
            return
        sense.failing = False
        if sense.mode == codes.CHANGES and sense.published == content:
            return
        if self._voice.up:
            sense.published = content
        self._say(sense.number, sense.counter, age_ms, code, content, run_us)
