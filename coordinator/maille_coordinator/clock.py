"""The core's time: unix milliseconds that never go back while the process runs."""

import time


class Clock:
    """Starts at the wall clock's time and then follows the monotonic one."""

    def __init__(self) -> None:
        self._offset_ms = time.time() * 1000 - time.monotonic() * 1000

    def now_ms(self) -> float:
        """Milliseconds since 1970, by this process's steady clock."""
        return time.monotonic() * 1000 + self._offset_ms
