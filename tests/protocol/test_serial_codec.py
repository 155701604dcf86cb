"""Frames and board messages: the shared vectors in Python and in C++, noise, round trips, the page."""

import dataclasses
import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pycddl  # type: ignore[import-untyped]
import pytest
from cpp_board import ARDUINO, FLAGS, SOURCES, copy_cbor, decode_frames, encode_frame
from hypothesis import given
from hypothesis import strategies as st
from wire_files import PROTOCOL, Record, Vector, load, vectors

from maille_protocol import UsageError, WireError, cbor
from maille_protocol.serial import limits
from maille_protocol.serial import messages as board
from maille_protocol.serial.crc16 import crc16
from maille_protocol.serial.frames import parse_board_frame, parse_host_frame
from maille_protocol.serial.framing import (
    Damaged,
    FrameReader,
    cobs_decode,
    cobs_encode,
)
from maille_protocol.serial.framing import encode_frame as python_encode_frame

PAGE = (PROTOCOL / "SERIAL.md").read_text("utf-8")
CDDL = (PROTOCOL / "serial.cddl").read_text("utf-8")

# pycddl takes the name of a field for the rule of that name, and recurses without end.
_RULES = re.findall(r"^([a-z-]+) = \[", CDDL, re.MULTILINE)
SCHEMA = pycddl.Schema(
    re.sub(rf"(?m)(?<![a-z-])({'|'.join(_RULES)})(?= = \[| /|$)", r"\1-message", CDDL)
)

BUDGET_FLASH_BYTES = 4096
BUDGET_RAM_BYTES = 220


def records(kind: str) -> list[Record]:
    found = load("serial_frames")[kind]
    assert isinstance(found, list)
    return cast("list[Record]", found)


def field_value(value: object) -> object:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    return tuple(field_value(item) for item in value) if isinstance(value, list) else value


# --- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", records("crcs"), ids=lambda record: record["data"] or "empty")
def test_crc(record: dict[str, str]) -> None:
    data = bytes.fromhex(record["data"])
    assert crc16(data).to_bytes(2, "little").hex() == record["crc"]
    assert crc16(data + bytes.fromhex(record["crc"])) == 0


@pytest.mark.parametrize("record", records("cobs"), ids=lambda record: record["data"])
def test_cobs(record: dict[str, str]) -> None:
    data, encoded = bytes.fromhex(record["data"]), bytes.fromhex(record["cobs"])
    assert cobs_encode(data) == encoded
    assert cobs_decode(encoded) == data


@pytest.mark.parametrize("vector", vectors("serial_frames", "good"), ids=str)
def test_good_frames(vector: Vector) -> None:
    body, wire = vector.data, bytes.fromhex(vector.text("wire"))
    assert python_encode_frame(body) == encode_frame(body) == wire
    assert len(wire) <= limits.MAX_FRAME_BYTES
    assert FrameReader().feed(wire) == decode_frames(wire) == [body]
    if vector.flag("board"):
        assert parse_board_frame(body).encode() == wire
    else:
        assert parse_host_frame(body).encode() == wire


@pytest.mark.parametrize("vector", vectors("serial_frames", "bad"), ids=str)
def test_bad_frames(vector: Vector) -> None:
    wire = vector.data + b"\0"
    [found] = FrameReader().feed(wire)
    assert isinstance(found, Damaged)
    assert found.size_bytes == len(vector.data)
    assert decode_frames(wire) == [None]
    # The next frame is read as if nothing had been.
    good = python_encode_frame(b"\x01\0\0\0\1")
    assert (
        FrameReader().feed(wire + good)[1:] == decode_frames(wire + good)[1:] == [b"\x01\0\0\0\1"]
    )


@pytest.mark.parametrize("vector", vectors("serial_frames", "bad_headers"), ids=str)
def test_bad_headers(vector: Vector) -> None:
    parse = parse_board_frame if vector.flag("board") else parse_host_frame
    with pytest.raises(WireError):
        parse(vector.data)


@given(st.lists(st.binary(max_size=60), max_size=6), st.binary(max_size=80), st.data())
def test_frames_survive_any_cut(bodies: list[bytes], noise: bytes, data: st.DataObject) -> None:
    bodies = [body for body in bodies if body]
    wire = noise + b"\0" + b"".join(python_encode_frame(body) for body in bodies)
    reader, found = FrameReader(), list[bytes | Damaged]()
    rest = wire
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += reader.feed(rest[:size])
        rest = rest[size:]
    assert found[len(found) - len(bodies) :] == bodies
    assert [None if isinstance(item, Damaged) else item for item in found] == decode_frames(wire)


@given(st.binary(max_size=300))
def test_noise_is_read_alike_by_both(noise: bytes) -> None:
    found = FrameReader().feed(noise)
    plain = [None if isinstance(item, Damaged) else item for item in found]
    assert plain == decode_frames(noise)
    for item in plain:
        for parse in (parse_board_frame, parse_host_frame):
            try:
                parse(item or b"")
            except WireError:
                continue


# --- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("serial_messages", "good"), ids=str)
def test_good_messages(vector: Vector) -> None:
    message = board.decode_board_message(vector.data)
    assert type(message).__name__ == vector.text("class")
    given_fields = cast("dict[str, object]", vector.record["fields"])
    assert {field.name: getattr(message, field.name) for field in dataclasses.fields(message)} == {
        name: field_value(value) for name, value in given_fields.items()
    }
    assert board.encode_board_message(message) == vector.data
    assert copy_cbor(vector.data) == vector.data
    if vector.name != "result_refused":  # pycddl takes no empty list in a choice of arrays
        SCHEMA.validate_cbor(vector.data)


@pytest.mark.parametrize("vector", vectors("serial_messages", "bad"), ids=str)
def test_bad_messages(vector: Vector) -> None:
    with pytest.raises(WireError):
        board.decode_board_message(vector.data)


@given(st.binary(max_size=100))
def test_noise_is_no_message(noise: bytes) -> None:
    try:
        message = board.decode_board_message(noise)
    except WireError:
        return
    assert board.decode_board_message(board.encode_board_message(message)) == message


@given(
    st.recursive(
        st.integers(0, 2**32 - 1)
        | st.binary(max_size=40)
        | st.booleans()
        | st.none()
        | st.text(alphabet="abcäöß", max_size=10),
        lambda inner: st.lists(inner, max_size=5),
        max_leaves=12,
    ).filter(lambda item: _depth(item) <= 3)
)
def test_cbor_of_the_board_copies_what_python_writes(item: Any) -> None:
    data = cbor.encode(item)
    assert copy_cbor(data) == data


@given(st.binary(max_size=60))
def test_cbor_of_the_board_never_reads_beyond(noise: bytes) -> None:
    copied = copy_cbor(noise)
    if copied is not None:
        assert copy_cbor(copied) == copied


def test_a_message_may_not_be_too_long() -> None:
    with pytest.raises(UsageError, match="takes"):
        board.encode_board_message(board.ModelChunk(0, 0, bytes(limits.MAX_MESSAGE_BYTES)))


# --- the page ------------------------------------------------------------------------------------


def test_the_schema_is_that_of_the_file() -> None:
    lines = [line.split(";")[0].rstrip() for line in CDDL.splitlines()]
    text = "".join(f"{line}\n" for line in lines if line)
    assert hashlib.sha256(text.encode()).digest()[:4] == board.SCHEMA


def test_the_page_tells_the_limits() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \| (\d+) \|", PAGE, re.MULTILINE)
    assert len(rows) >= 20
    assert {name: int(value) for name, value in rows} == {
        name: getattr(limits, name) for name, _ in rows
    }


def test_the_page_and_the_cddl_tell_every_message() -> None:
    rows = dict(
        re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", PAGE.split("# Board messages")[1], re.MULTILINE)
    )
    assert {int(code) for code in rows} == set(board.MESSAGE_CLASSES)
    in_cddl = {int(code) for code in re.findall(r"= \[\s*(\d+)[,\s]", CDDL)}
    assert in_cddl == set(board.MESSAGE_CLASSES)
    covered = {vector.text("class") for vector in vectors("serial_messages", "good")}
    assert covered == {kind.__name__ for kind in board.MESSAGE_CLASSES.values()}


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("avr-g++") is None, reason="no avr-g++ (package gcc-avr)")
def test_size_on_an_uno(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The link, framing and CBOR, everything of them used, before the linker drops what is not."""
    flash = 0
    for name in SOURCES:
        flash += _sizes(ARDUINO / "src" / "maille" / f"{name}.cpp", tmp_path / f"{name}.o")[0]
    source = tmp_path / "ram.cpp"
    source.write_text('#include "maille/link.h"\nmaille::Link link_of_this_board;\n')
    ram = _sizes(source, tmp_path / "ram.o")[1]
    with capsys.disabled():
        print(f"\nlink on ATmega328P: {flash} bytes of flash, {ram} of RAM")  # noqa: T201
    assert flash <= BUDGET_FLASH_BYTES
    assert ram <= BUDGET_RAM_BYTES


def _sizes(source: Path, built: Path) -> tuple[int, int]:
    compiler = ["avr-g++", *FLAGS, "-Os", "-mmcu=atmega328p", f"-I{ARDUINO / 'src'}"]
    subprocess.run([*compiler, "-c", "-o", str(built), str(source)], check=True)
    said = subprocess.run(["avr-size", str(built)], check=True, capture_output=True, text=True)
    text, data, bss, *_ = (int(word) for word in said.stdout.splitlines()[1].split()[:4])
    return text + data, data + bss


def _depth(item: object) -> int:
    return 1 + max(map(_depth, item), default=0) if isinstance(item, list) else 0
