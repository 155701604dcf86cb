"""Firmware of Arduino boards: built here where a compiler is, else the one that came along; avrdude."""

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from maille.errors import InputError, SettingsError
from maille.flashing.errors import BoardFailed
from maille_node.firmware import avr
from maille_node.firmware.header import check_stack, write_model_header
from maille_node.firmware.targets import TARGETS, AvrTarget
from maille_protocol import WireError

SKETCH = "DigitsOnUno"
_ANSWER_TIMEOUT_S = 20.0
_WRITE_TIMEOUT_S = 120.0
# Nanos made before 2018 have a boot loader of half the speed.
_OTHER_BAUDS = {"nano": (57_600,)}


@dataclass(frozen=True, slots=True)
class ArduinoFirmware:
    """What can be written: an image, and what it takes of the board (None where nobody measured)."""

    hex: Path
    made_by: str
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    model: Path | None = None
    """The file of the model in it, which the mesh has to know before anybody can run it."""

    def summary(self, target: AvrTarget) -> str:
        """Flash and RAM used and left, for people."""
        if self.flash_bytes is None or self.ram_bytes is None:
            return f"ready-made firmware for the {target.title}"
        return avr.Build(self.hex, self.hex, self.flash_bytes, self.ram_bytes, target).summary()


def make_firmware(
    target: AvrTarget, output: Path, *, model: Path | None = None, sketch: Path | None = None
) -> ArduinoFirmware:
    """The firmware for a board, from the best that this machine has.

    avr-gcc with the Arduino core, else arduino-cli, else the ready-made image, which has the
    digits in it and takes no other model.

    Args:
        target: the board.
        output: a folder to build in.
        model: a model in the tiny format, in place of the sketch's own.
        sketch: an .ino file; else the example that runs a built-in model.

    Raises:
        InputError: the model cannot be read, or is none in the tiny format.
        SettingsError: nothing here can build, and there is no ready-made image for it.
        BoardFailed: the firmware does not compile or does not fit the board.
    """
    try:
        library = avr.library_directory()
    except avr.FirmwareError as error:
        raise SettingsError(f"Firmware cannot be built here: {error}.") from error
    source = sketch or library / "examples" / SKETCH / f"{SKETCH}.ino"
    if not source.is_file():
        raise InputError(f"There is no sketch {source}. Name an .ino file with --sketch.")
    if source.suffix != ".ino":
        raise InputError(f"{source} is no Arduino sketch. Name an .ino file with --sketch.")
    include: tuple[Path, ...] = ()
    if model is not None:
        include = (_model_folder(model, target, output / "model"),)
    known = model or next(iter(source.parent.glob("*.tiny")), None)
    try:
        avr.find_toolchain()
    except avr.FirmwareError as error:
        missing = error
    else:
        try:
            built = avr.build(source, target, output, include=include)
        except avr.FirmwareError as error:
            raise BoardFailed(str(error)) from error
        made = ArduinoFirmware(built.hex, "avr-gcc", built.flash_bytes, built.ram_bytes, known)
        return _with_room(made, target, model)
    if shutil.which("arduino-cli") is not None:
        made = replace(_with_arduino_cli(source, target, output, include, library), model=known)
        return _with_room(made, target, model)
    ready = library / "extras" / "firmware" / f"{target.mcu}.hex"
    if model is None and sketch is None and ready.is_file():
        sizes = json.loads(ready.with_name("sizes.json").read_text(encoding="utf-8"))[target.mcu]
        return ArduinoFirmware(
            ready, "the release", sizes["flash_bytes"], sizes["ram_bytes"], known
        )
    raise SettingsError(f"A firmware of your own has to be built here, and {missing}.")


def _with_room(firmware: ArduinoFirmware, target: AvrTarget, model: Path | None) -> ArduinoFirmware:
    if model is not None and firmware.ram_bytes is not None:
        try:
            check_stack(target, firmware.ram_bytes)
        except avr.FirmwareError as error:
            raise BoardFailed(f"{model}: {error}.") from error
    return firmware


def _model_folder(model: Path, target: AvrTarget, folder: Path) -> Path:
    try:
        write_model_header(model.read_bytes(), target, folder)
    except OSError as error:
        raise InputError(
            f"{model} cannot be read: {error.strerror}. Correct the path after --model."
        ) from error
    except WireError as error:
        raise InputError(
            f"{model} is no model in the tiny format ({error}). Make one with: maille models convert"
        ) from error
    except avr.FirmwareError as error:
        raise BoardFailed(f"{model}: {error}.") from error
    return folder


def _with_arduino_cli(
    source: Path, target: AvrTarget, output: Path, include: tuple[Path, ...], library: Path
) -> ArduinoFirmware:
    with tempfile.TemporaryDirectory() as folder:
        # arduino-cli wants the sketch's folder to bear its name, and reads headers from there.
        copy = Path(folder) / source.stem
        shutil.copytree(source.parent, copy)
        for extra in include:
            shutil.copytree(extra, copy, dirs_exist_ok=True)
        command = ["arduino-cli", "compile", "--fqbn", target.fqbn]
        command += ["--library", str(library), "--output-dir", str(output)]
        done = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BoardFailed(f"arduino-cli could not build it:\n{done.stderr.strip()[-2000:]}")
    used = [int(number) for number in re.findall(r"\b(?:uses|use) (\d+) bytes", done.stdout)]
    flash, ram, *_ = (*used, None, None)
    return ArduinoFirmware(output / f"{source.name}.hex", "arduino-cli", flash, ram)


def avrdude() -> str:
    """The path of avrdude.

    Raises:
        SettingsError: it is missing.
    """
    program = shutil.which("avrdude")
    if program is None:
        raise SettingsError(
            "avrdude, which writes Arduino boards, is not installed. On Debian: sudo apt install avrdude"
        )
    return program


def write_arduino(firmware: ArduinoFirmware, target: AvrTarget, port: str) -> None:
    """Writes the firmware with avrdude, and has it read back.

    Raises:
        SettingsError: avrdude is missing.
        BoardFailed: the board did not answer, or what it holds is not what was written.
    """
    program = avrdude()
    last = ""
    for baud in (target.upload_baud, *_OTHER_BAUDS.get(target.name, ())):
        command = [program, "-q", "-p", target.mcu, "-c", target.programmer, "-P", port]
        command += ["-b", str(baud), "-D"]
        # A question first: a port on which nothing answers is given up after seconds, not after
        # the time that a whole memory may take.
        last = _run_avrdude(command, _ANSWER_TIMEOUT_S)
        if not last:
            last = _run_avrdude([*command, "-U", f"flash:w:{firmware.hex}:i"], _WRITE_TIMEOUT_S)
            if not last:
                return
    raise BoardFailed(
        f"The {target.title} at {port} was not written: {last}. Close what else uses the port "
        "(a running `maille gateway`, a serial monitor), check that the board is the right kind, "
        "and press its reset button as writing starts."
    )


def _run_avrdude(command: list[str], timeout_s: float) -> str:
    """Runs avrdude; why it failed, or nothing where it did not."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return f"nothing answered for {timeout_s:.0f} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if "avrdude" in line and line.strip()]
    return lines[0].strip() if lines else "avrdude gave no reason"


def target_of(name: str) -> AvrTarget:
    """The target behind a kind of board that avrdude writes."""
    return TARGETS[name]
