"""Builds sketches for AVR boards with avr-gcc and the Arduino core, without arduino-cli.

The flags are those of the Arduino AVR platform. Objects are kept in a cache directory under the hash
of everything that goes into them, so that a second build of an unchanged file takes no time.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from maille_node.firmware.targets import AvrTarget

_CORE_PLACES = (
    "/usr/share/arduino/hardware/arduino/avr",
    "~/.arduino15/packages/arduino/hardware/avr",
    "~/Library/Arduino15/packages/arduino/hardware/avr",
)
_COMMON = (
    "-g",
    "-Os",
    "-w",
    "-ffunction-sections",
    "-fdata-sections",
    "-flto",
    "-fno-fat-lto-objects",
)
# WString.cpp of the core 1.8.7 wants it, and gcc 5's float.h has it only for C.
_CORE_DEFINES = ("-DDECIMAL_DIG=__DECIMAL_DIG__",)
# Shared entries and exits of functions: an eighth less flash for some cycles a call. Not where models run.
_SMALL_FLAGS = ("-mcall-prologues",)
_SMALL_FILES = {"link", "framing", "cbor", "node", "delivery", "store", "senses"}
# At link time the flag is for all: what every run of a model calls most is left out of that.
_FAST_FILES = {"cursor"}
_OWN_WARNINGS = ("-Wall", "-Wextra", "-Werror")


class FirmwareError(Exception):
    """Firmware could not be built; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Where the compiler's programs and the Arduino core are."""

    bin_directory: Path
    core_directory: Path

    def program(self, name: str) -> str:
        """The path of one program of the compiler, such as "avr-gcc"."""
        return str(self.bin_directory / name)


@dataclass(frozen=True, slots=True)
class Build:
    """A linked program and how much of the board it takes (bytes, without the stack)."""

    elf: Path
    hex: Path
    flash_bytes: int
    ram_bytes: int
    target: AvrTarget

    def summary(self) -> str:
        """Two lines for people: what is used and what is left."""
        flash, ram = self.target.flash_bytes, self.target.ram_bytes
        return (
            f"flash {self.flash_bytes:>6,} of {flash:,} bytes, {flash - self.flash_bytes:,} left\n"
            f"RAM   {self.ram_bytes:>6,} of {ram:,} bytes, {ram - self.ram_bytes:,} left for the stack"
        )


def find_toolchain() -> Toolchain:
    """Looks for avr-gcc and the Arduino core.

    Raises:
        FirmwareError: one of them is not there; says how to get it.
    """
    compiler = shutil.which("avr-gcc")
    if compiler is None:
        raise FirmwareError(
            "avr-gcc is not installed; on Debian: sudo apt install gcc-avr avr-libc arduino-core-avr"
        )
    places = [os.environ["ARDUINO_AVR_CORE"]] if "ARDUINO_AVR_CORE" in os.environ else _CORE_PLACES
    for place in places:
        root = Path(place).expanduser()
        for candidate in (root, *sorted(root.glob("[0-9]*"), reverse=True)):
            if (candidate / "cores/arduino/Arduino.h").is_file():
                return Toolchain(Path(compiler).parent, candidate)
    raise FirmwareError(
        "the Arduino core for AVR is not installed; on Debian: sudo apt install arduino-core-avr, "
        "or set ARDUINO_AVR_CORE to the folder that holds its cores/ and variants/"
    )


def library_directory() -> Path:
    """The Arduino library `nodes/arduino`, beside this package in a checkout, in it in a wheel.

    Raises:
        FirmwareError: this installation came without it.
    """
    named = os.environ.get("MAILLE_ARDUINO_LIBRARY")
    here = Path(__file__).resolve()
    places = [Path(named)] if named else [here.parents[3] / "arduino", here.parent / "arduino"]
    for directory in places:
        if (directory / "library.properties").is_file():
            return directory
    raise FirmwareError(
        "the Arduino library is not part of this installation; set MAILLE_ARDUINO_LIBRARY to the "
        "folder nodes/arduino of a checkout of Maille"
    )


def cache_directory() -> Path:
    """Where built objects are kept."""
    return (
        Path(os.environ.get("MAILLE_FIRMWARE_CACHE") or platformdirs.user_cache_dir("maille"))
        / "avr"
    )


@functools.lru_cache(maxsize=64)
def _headers_digest(directories: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for directory in directories:
        for header in sorted(directory.rglob("*.h")):
            digest.update(header.read_bytes())
    return digest.hexdigest()


def _run(command: Sequence[str], temporary: Path | None = None) -> str:
    """What a program prints; its own temporary files lie in `temporary`, if it is given one."""
    environment = {**os.environ, "TMPDIR": str(temporary)} if temporary is not None else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise FirmwareError(f"{Path(command[0]).name} failed:\n{done.stderr.strip()[-4000:]}")
    return done.stdout


def _compile(
    toolchain: Toolchain,
    target: AvrTarget,
    source: Path,
    includes: tuple[Path, ...],
    extra: tuple[str, ...],
    *,
    own: bool,
) -> Path:
    """One object, from the cache if nothing that goes into it has changed."""
    common = [flag for flag in _COMMON if not (own and flag == "-w")]
    language = {
        ".c": ["-std=gnu11"],
        ".S": ["-x", "assembler-with-cpp"],
        ".cpp": ["-std=gnu++11", "-fno-exceptions", "-fno-threadsafe-statics"],
    }[source.suffix]
    warnings = _OWN_WARNINGS if own and source.suffix == ".cpp" else ()
    arguments = [
        *common,
        *language,
        *(_SMALL_FLAGS if own and source.stem in _SMALL_FILES else ()),
        *(("-fno-lto",) if own and source.stem in _FAST_FILES else ()),
        *warnings,
        # Names of local symbols, and with them the program's order, follow from the file's name alone.
        f"-frandom-seed={source.name}",
        f"-mmcu={target.mcu}",
        f"-DF_CPU={target.clock_hz}L",
        "-DARDUINO=10819",
        f"-DARDUINO_{target.board_define}",
        "-DARDUINO_ARCH_AVR",
        *extra,
        *(f"-I{directory}" for directory in includes),
    ]
    key = hashlib.sha256()
    key.update(_headers_digest(includes).encode())
    key.update(source.read_bytes())
    key.update("\0".join([str(source), *arguments]).encode())
    made = cache_directory() / "objects" / f"{source.stem}-{key.hexdigest()[:32]}.o"
    if made.is_file():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    partial = made.with_suffix(f".{os.getpid()}.o")
    driver = toolchain.program("avr-g++" if source.suffix == ".cpp" else "avr-gcc")
    _run([driver, "-c", *arguments, str(source), "-o", str(partial)])
    partial.replace(made)
    return made


def _archive(toolchain: Toolchain, archive: Path, objects: Iterable[Path]) -> Path:
    """Objects of which the linker takes only those that something asks for."""
    archive.unlink(missing_ok=True)
    _run([toolchain.program("avr-gcc-ar"), "rcs", str(archive), *map(str, objects)])
    return archive


def sketch_source(sketch: Path) -> str:
    """The C++ of a sketch: what the Arduino IDE makes of NAME/NAME.ino.

    Prototypes are not invented: our sketches define functions before they call them.
    """
    return f'#include <Arduino.h>\n#line 1 "{sketch}"\n{sketch.read_text(encoding="utf-8")}'


def _sizes(toolchain: Toolchain, elf: Path) -> tuple[int, int]:
    listing = _run([toolchain.program("avr-size"), "-A", str(elf)])
    sizes = {
        match[1]: int(match[2]) for match in re.finditer(r"^(\.\w+)\s+(\d+)", listing, re.MULTILINE)
    }
    data = sizes.get(".data", 0)
    return sizes.get(".text", 0) + data, data + sizes.get(".bss", 0) + sizes.get(".noinit", 0)


def build(
    sketch: Path,
    target: AvrTarget,
    output: Path,
    *,
    defines: Iterable[str] = (),
    include: Sequence[Path] = (),
    with_core: bool = True,
    whole_program: bool = True,
) -> Build:
    """Compiles and links one sketch with the Arduino core and our library.

    Args:
        sketch: the .ino file, or a .cpp file that brings its own main.
        target: the board.
        output: a folder for the program; made if missing.
        defines: macros, as NAME or NAME=value.
        include: more folders of headers, searched first (a model in place of the sketch's own).
        with_core: False links without the Arduino core, for programs with their own main.
        whole_program: False leaves out link-time optimisation, so that sizes can be told by file.

    Raises:
        FirmwareError: no compiler, the code does not compile, or it does not fit the board.
    """
    toolchain = find_toolchain()
    library = library_directory() / "src"
    core = toolchain.core_directory / "cores/arduino"
    variant = toolchain.core_directory / "variants" / target.variant
    eeprom = toolchain.core_directory / "libraries/EEPROM/src"
    system = (core, variant, eeprom)
    extra = tuple(f"-D{define}" for define in defines)
    if not whole_program:
        extra += ("-fno-lto",)
    output.mkdir(parents=True, exist_ok=True)

    main = output / f"{sketch.stem}.cpp"
    source = (
        sketch_source(sketch) if sketch.suffix == ".ino" else sketch.read_text(encoding="utf-8")
    )
    if not main.is_file() or main.read_text(encoding="utf-8") != source:
        main.write_text(source, encoding="utf-8")
    ours = (*include, library)
    objects = [
        _compile(
            toolchain, target, main, (*include, sketch.parent, library, *system), extra, own=False
        )
    ]
    sources = sorted(p for p in library.rglob("*") if p.suffix in {".c", ".cpp", ".S"})
    # Only the outermost files see Arduino.h, which does not compile without warnings.
    objects += [
        _compile(toolchain, target, path, ours, extra, own=True)
        if path.parent != library
        else _compile(toolchain, target, path, (*ours, *system), extra, own=False)
        for path in sources
        if with_core or path.parent != library
    ]
    if with_core:
        core_sources = sorted(p for p in core.rglob("*") if p.suffix in {".c", ".cpp", ".S"})
        objects_of_core = [
            _compile(toolchain, target, path, system, (*extra, *_CORE_DEFINES), own=False)
            for path in core_sources
        ]
        objects.append(_archive(toolchain, output / "core.a", objects_of_core))
    elf = output / f"{sketch.stem}.elf"
    command = [toolchain.program("avr-gcc"), "-w", "-Os", "-g", "-flto", "-fuse-linker-plugin"]
    command += [
        "-Wl,--gc-sections",
        "-Wl,--relax",
        f"-Wl,-Map={elf.with_suffix('.map')}",
        f"-mmcu={target.mcu}",
    ]
    # Interrupted, the linker leaves its files behind: they go with the folder.
    _run([*command, "-o", str(elf), *map(str, objects), "-lm"], temporary=output)
    image = elf.with_suffix(".hex")
    _run([toolchain.program("avr-objcopy"), "-O", "ihex", "-R", ".eeprom", str(elf), str(image)])
    flash, ram = _sizes(toolchain, elf)
    if flash > target.flash_bytes or ram > target.ram_bytes:
        raise FirmwareError(
            f"{sketch.stem} does not fit the {target.title}: {flash:,} of {target.flash_bytes:,} "
            f"bytes of flash, {ram:,} of {target.ram_bytes:,} bytes of RAM; take a smaller model "
            "or a board with more"
        )
    return Build(elf, image, flash, ram, target)


def file_sizes(build_: Build) -> dict[str, tuple[int, int]]:
    """Flash and static RAM of each source file in a program built with `whole_program=False`.

    Initial values of variables count as both.
    """
    text = build_.elf.with_suffix(".map").read_text(encoding="utf-8")
    sections = re.finditer(
        r"^ \.(text|lowtext|progmem|rodata|data|bss)\S*\s+0x[0-9a-f]+\s+0x([0-9a-f]+) (\S+)$",
        text.split("Linker script and memory map")[1],
        re.MULTILINE,
    )
    sizes: dict[str, tuple[int, int]] = {}
    for section, digits, path in (match.groups() for match in sections):
        # Objects are named SOURCE-HASH.o
        name = Path(path).name.rsplit("-", 1)[0]
        flash, ram = sizes.get(name, (0, 0))
        size = int(digits, 16)
        in_ram = section in {"rodata", "data", "bss"}
        sizes[name] = (flash + (section != "bss") * size, ram + in_ram * size)
    return sizes


def symbols(build_: Build) -> dict[str, tuple[int, int]]:
    """Address and size of each symbol of a program (data addresses as avr-nm gives them)."""
    listing = _run([find_toolchain().program("avr-nm"), "-S", str(build_.elf)])
    found = {}
    for line in listing.splitlines():
        parts = line.split()
        if len(parts) == 4:
            found[parts[3]] = (int(parts[0], 16), int(parts[1], 16))
        elif len(parts) == 3:
            found[parts[2]] = (int(parts[0], 16), 0)
    return found
