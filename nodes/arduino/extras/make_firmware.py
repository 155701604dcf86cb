"""Builds the firmware that `maille flash` takes where no compiler is: MCU.hex and sizes.json.

They go to extras/firmware; the sizes are what each takes of its board.

Run it from the root of a checkout after a change of the library, with Debian's gcc-avr (5.4) and
arduino-core-avr: another compiler gives other bytes.
"""

import json
import shutil
import tempfile
from pathlib import Path

from maille_node.firmware import avr
from maille_node.firmware.targets import MEGA, UNO

ARDUINO = Path(__file__).resolve().parents[1]


def main() -> None:
    """The digits, for both chips."""
    sketch = ARDUINO / "examples/DigitsOnUno/DigitsOnUno.ino"
    folder = ARDUINO / "extras/firmware"
    folder.mkdir(exist_ok=True)
    sizes = {}
    for target in (UNO, MEGA):
        with tempfile.TemporaryDirectory() as output:
            built = avr.build(sketch, target, Path(output))
            shutil.copyfile(built.hex, folder / f"{target.mcu}.hex")
            sizes[target.mcu] = {"flash_bytes": built.flash_bytes, "ram_bytes": built.ram_bytes}
            print(f"{target.title}\n{built.summary()}")  # noqa: T201
    (folder / "sizes.json").write_text(f"{json.dumps(sizes, indent=2)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
