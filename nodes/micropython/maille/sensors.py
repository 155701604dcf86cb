"""A board's sensors as lists of real numbers, made as the configuration says."""

from .errors import ConfigError


class Sensors:
    """Sensors by name.

    Args:
        wanted: as in the configuration.
    """

    def __init__(self, wanted: dict) -> None:
        self.values: dict = {}
        """Numbers in one reading (0: as many as wanted), by name."""
        self._read: dict = {}
        for name, settings in wanted.items():
            make = _KINDS.get(settings.get("kind"))
            if make is None or len(name) > 32:
                raise ConfigError("sensor {}: unknown kind, or too long a name".format(name))
            try:
                self.values[name], self._read[name] = make(settings)
            except (ImportError, AttributeError, KeyError, ValueError, TypeError) as error:
                raise ConfigError("sensor {}: not on this board: {}".format(name, error)) from None

    def read(self, name: str, count: int) -> list:
        """`count` numbers of a sensor; whatever the hardware or the user's function raises."""
        read = self._read[name]
        if self.values[name]:
            return read()
        return [read() for _ in range(count)]


def _analog(settings: dict):
    from machine import ADC, Pin

    adc = ADC(Pin(settings["pin"]))
    return 0, lambda: adc.read_u16() / 65535


def _digital(settings: dict):
    from machine import Pin

    pin = Pin(settings["pin"], Pin.IN)
    return 0, lambda: float(pin.value())


def _temperature(_settings: dict):
    import sys

    if sys.platform == "rp2":
        from machine import ADC

        adc = ADC(4)
        # From the RP2040's data sheet, 4.9.5: 0.706 V at 27 degrees, 1.721 mV less for each more.
        return 1, lambda: [27 - (adc.read_u16() * 3.3 / 65535 - 0.706) / 0.001721]
    import esp32

    if hasattr(esp32, "mcu_temperature"):
        return 1, lambda: [float(esp32.mcu_temperature())]
    return 1, lambda: [(esp32.raw_temperature() - 32) / 1.8]


def _function(settings: dict):
    module = __import__(settings["module"])
    function = getattr(module, settings["function"])
    return int(settings["values"]), function


def _fake(settings: dict):
    readings = settings["readings"]
    turn = [-1]

    def read() -> list:
        turn[0] = (turn[0] + 1) % len(readings)
        return readings[turn[0]]

    return len(readings[0]), read


_KINDS = {
    "adc": _analog,
    "pin": _digital,
    "temperature": _temperature,
    "function": _function,
    "fake": _fake,
}
