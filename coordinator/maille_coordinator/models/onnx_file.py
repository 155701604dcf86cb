"""Reads the outline of an ONNX file without loading it: enough to say what is wrong with it.

An ONNX file is one protocol buffer (`ModelProto` of onnx.proto); only the few fields named below
are read, everything else is skipped by its length, so that the file's size does not matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from maille_coordinator.models.errors import InspectionError

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_FIELD = 1000
"""Field numbers of onnx.proto stay far below."""
_MAX_TEXT_BYTES = 4096

_OTHER_FORMATS = (
    (0, b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint: use torch.onnx.export"),
    (0, b"\x80", "a Python pickle: load it and export the model, for example with skl2onnx"),
    (0, b"GGUF", "a GGUF language model, which this command does not take"),
    (4, b"TFL3", "a TensorFlow Lite model: convert it with tf2onnx"),
    (0, b"\x89HDF", "an HDF5 file, perhaps Keras: convert it with tf2onnx"),
    (0, b"\x1f\x8b", "a gzip file: unpack it first"),
)


@dataclass(slots=True)
class OnnxOutline:
    """What the file says about itself."""

    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    """Version by domain; the standard operators have the domain ""."""
    has_graph: bool = False
    external_files: list[str] = field(default_factory=list)
    """Files that hold weights which this file lacks."""


class _BrokenError(Exception):
    """Raised inside this module where the bytes are no protocol buffer."""


class _CutShortError(_BrokenError):
    """Raised where a field reaches past the end."""


def read_outline(path: Path) -> OnnxOutline:
    """The outline of the ONNX file at `path`.

    Raises:
        InspectionError: not_onnx or truncated.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if not head:
            raise InspectionError("not_onnx", "the file is empty: export the model again")
        for position, magic, what in _OTHER_FORMATS:
            if head[position:].startswith(magic):
                raise InspectionError("not_onnx", f"this is no ONNX file, but {what}")
        outline = OnnxOutline()
        file.seek(0)
        try:
            _read_model(file, size, outline)
        except _CutShortError as error:
            # ir_version comes first in every file that a known exporter writes.
            if not 1 <= outline.ir_version <= 100:
                raise _not_onnx() from error
            raise InspectionError(
                "truncated",
                f"the ONNX file ends too early, at byte {size}: it was cut off when it was copied "
                "or exported; copy or export it again",
            ) from error
        except _BrokenError as error:
            raise _not_onnx() from error
    if not outline.ir_version or not (outline.has_graph or outline.opsets):
        raise _not_onnx()
    if not outline.has_graph or not outline.opsets:
        raise InspectionError(
            "truncated",
            "the ONNX file holds no graph or no opset: it was cut off; copy or export it again",
        )
    return outline


def _not_onnx() -> InspectionError:
    return InspectionError(
        "not_onnx",
        "this is no ONNX file: export the model to ONNX first "
        "(torch.onnx.export, skl2onnx.to_onnx, tf2onnx)",
    )


def _read_model(file: BinaryIO, size: int, outline: OnnxOutline) -> None:
    for number, value, end in _fields(file, size):
        if number == 1 and end is None:
            outline.ir_version = value
        elif number == 2 and end is not None:
            outline.producer = _text(file, end)
        elif number == 7 and end is not None:
            outline.has_graph = True
            _read_graph(file, end, outline)
        elif number == 8 and end is not None:
            domain, version = "", 0
            for inner, inner_value, inner_end in _fields(file, end):
                if inner == 1 and inner_end is not None:
                    domain = _text(file, inner_end)
                elif inner == 2 and inner_end is None:
                    version = inner_value
            outline.opsets["" if domain == "ai.onnx" else domain] = version


def _read_graph(file: BinaryIO, end: int, outline: OnnxOutline) -> None:
    for number, _, tensor_end in _fields(file, end):
        if number != 5 or tensor_end is None:
            continue
        external = False
        location = ""
        for inner, value, inner_end in _fields(file, tensor_end):
            if inner == 14 and inner_end is None:
                external = value == 1
            elif inner == 13 and inner_end is not None:
                key, text = _pair(file, inner_end)
                location = text if key == "location" else location
        if external and location not in outline.external_files:
            outline.external_files.append(location)


def _pair(file: BinaryIO, end: int) -> tuple[str, str]:
    key = text = ""
    for number, _, inner_end in _fields(file, end):
        if inner_end is not None and number == 1:
            key = _text(file, inner_end)
        elif inner_end is not None and number == 2:
            text = _text(file, inner_end)
    return key, text


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int | None]]:
    """(number, value, None) for a number, (number, length, its end) for bytes.

    The caller may read the bytes; the next field is found wherever it stopped.
    """
    while file.tell() < end:
        tag = _varint(file, end)
        number, kind = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD:
            raise _BrokenError
        if kind == _VARINT:
            yield number, _varint(file, end), None
        elif kind == _LENGTH:
            length = _varint(file, end)
            inner_end = file.tell() + length
            if inner_end > end:
                raise _CutShortError
            yield number, length, inner_end
            file.seek(inner_end)
        elif kind in {_FIXED32, _FIXED64}:
            after = file.tell() + (4 if kind == _FIXED32 else 8)
            if after > end:
                raise _CutShortError
            file.seek(after)
        else:
            raise _BrokenError


def _varint(file: BinaryIO, end: int) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte or file.tell() > end:
            raise _CutShortError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _BrokenError


def _text(file: BinaryIO, end: int) -> str:
    return file.read(min(end - file.tell(), _MAX_TEXT_BYTES)).decode("utf-8", "replace")
