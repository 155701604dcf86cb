"""MicroPython itself onto a board: esptool for ESP chips, the boot loader's drive for RP2040."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from maille.errors import SettingsError
from maille.flashing.boards import BoardKind, Writer
from maille.flashing.errors import BoardFailed, BoardNotFound

_UF2_MAGIC = b"UF2\n\x57\x51\x5d\x9e"
_UF2_FAMILY_RP2040 = 0xE48BFF56
_ESP_MAGIC = 0xE9
_WAIT_FOR_DRIVE_S = 60.0
_INFO_FILE = "INFO_UF2.TXT"


def check_firmware(path: Path, kind: BoardKind) -> None:
    """See that a file can be firmware of this kind of board, before anything is erased.

    Raises:
        SettingsError: not readable, or of another kind; with the page that has the right one.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise SettingsError(
            f"The firmware {path} cannot be read ({error.strerror or error}). MicroPython for the "
            f"{kind.title} is at {kind.firmware_page}"
        ) from error
    if kind.writer is Writer.UF2:
        family = int.from_bytes(head[28:32], "little")
        fits = head[:8] == _UF2_MAGIC and family == _UF2_FAMILY_RP2040
    else:
        fits = len(head) > 24 and head[0] == _ESP_MAGIC
    if not fits:
        raise SettingsError(
            f"{path} is no firmware for the {kind.title}. MicroPython for it is at "
            f"{kind.firmware_page}"
        )


def write_firmware(
    path: Path,
    kind: BoardKind,
    port: str | None,
    *,
    erase: bool,
    on_progress: Callable[[float], None],
    on_wait: Callable[[str], None],
) -> None:
    """Write MicroPython to a board; `on_progress` is told the part done, 0 to 1.

    Args:
        path: a `.bin` for ESP chips, a `.uf2` for RP2040.
        kind: the kind of board.
        port: its serial port; RP2040 shows as a drive instead.
        erase: wipe the whole flash first (ESP chips only): settings and models too.
        on_progress: called often.
        on_wait: told what the person must do, if anything.

    Raises:
        SettingsError: the file does not fit.
        BoardNotFound, BoardFailed: with the next step.
    """
    check_firmware(path, kind)
    if kind.writer is Writer.UF2:
        drive = wait_for_drive(on_wait)
        copy_uf2(path, drive, on_progress)
        return
    if port is None:
        raise BoardNotFound(f"The {kind.title}'s serial port is not known. Name it with --port.")
    if erase:
        run_esptool(kind, port, ["erase-flash"], on_progress)
    offset = f"{kind.firmware_offset:#x}"
    run_esptool(kind, port, ["write-flash", offset, str(path)], on_progress)


def run_esptool(
    kind: BoardKind, port: str, words: list[str], on_progress: Callable[[float], None]
) -> None:
    """One esptool command, as a program of its own (its licence is the GPL).

    Raises:
        BoardFailed: it failed; with its last words.
    """
    command = [sys.executable, "-m", "esptool", "--chip", kind.chip, "--port", port, *words]
    last = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            for piece in re.split(r"[\r\n]", line):
                if piece.strip():
                    last = piece.strip()
                percent = re.search(r"([\d.]+) ?%", piece)
                if percent:
                    on_progress(min(1.0, float(percent[1]) / 100))
    if process.returncode == 0:
        on_progress(1.0)
        return
    if "No module named" in last:
        raise BoardFailed("esptool is missing. Install it with: pip install 'maille[flash]'")
    raise BoardFailed(
        f"esptool could not write the {kind.title} on {port}: {last} Hold the board's BOOT button "
        "while it starts, then try again."
    )


def find_drive(mount_points: list[str]) -> Path | None:
    """The RP2040's boot loader among mounted drives."""
    for mount in mount_points:
        info = Path(mount) / _INFO_FILE
        try:
            text = info.read_text("utf-8", "replace")
        except OSError:
            continue
        if "RPI-RP2" in text or "RP2040" in text:
            return Path(mount)
    return None


def wait_for_drive(
    on_wait: Callable[[str], None],
    *,
    timeout_s: float = _WAIT_FOR_DRIVE_S,
    mount_points: Callable[[], list[str]] | None = None,
) -> Path:
    """The boot loader's drive, as soon as it is there.

    Raises:
        BoardNotFound: it did not appear in time.
    """
    read = mount_points or (lambda: [part.mountpoint for part in psutil.disk_partitions(all=True)])
    end_s = time.monotonic() + timeout_s
    told = False
    while True:
        drive = find_drive(read())
        if drive is not None:
            return drive
        if not told:
            on_wait("hold the BOOTSEL button while you plug the board in; its drive then appears")
            told = True
        if time.monotonic() > end_s:
            raise BoardNotFound(
                f"No drive of an RP2040 appeared within {timeout_s:.0f} s. Hold BOOTSEL while you "
                "plug the board in; where drives are not mounted by themselves, mount it first."
            )
        time.sleep(0.2)


def copy_uf2(path: Path, drive: Path, on_progress: Callable[[float], None]) -> None:
    """Copy firmware to the boot loader's drive. The board starts anew when it has all of it.

    Raises:
        BoardFailed: the drive did not take it.
    """
    size = path.stat().st_size
    done = 0
    try:
        with path.open("rb") as source, (drive / path.name).open("wb") as target:
            while piece := source.read(64 * 512):
                target.write(piece)
                done += len(piece)
                on_progress(done / size)
    except OSError as error:
        # The drive vanishes with the last block, which is how the boot loader says that it is done.
        if done < size:
            raise BoardFailed(
                f"The board's drive {drive} took {done:,} of {size:,} bytes ({error}). Try again "
                "with another cable or port."
            ) from error
    on_progress(1.0)
