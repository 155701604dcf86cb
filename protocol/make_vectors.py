# ruff: noqa: T201
"""Propose the files in `protocol/vectors/`: hand-made tables plus values made by our encoder.

    python protocol/make_vectors.py           write them
    python protocol/make_vectors.py --check   exit 1 and name the files that would change

A test runs the check, so a committed vector never changes unseen.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import cast

import cbor2

from maille_protocol import cbor, pack, topics
from maille_protocol.limits import PROTOCOL_VERSION
from maille_protocol.messages import MESSAGE_CLASSES, Message
from maille_protocol.serial.framing import encode_frame
from maille_protocol.signature import dtype_name
from maille_protocol.tensors import Array, encode_tensors
from vector_sources.boards import BOARDS_GOOD
from vector_sources.boards_bad import BOARDS_BAD
from vector_sources.cbor import CBOR_BAD, CBOR_GOOD, CBOR_READ_ONLY, CBOR_UNUSED
from vector_sources.common import ENCODER, HAND, Json
from vector_sources.envelopes import ENVELOPES_BAD
from vector_sources.language import LANGUAGE_GOOD
from vector_sources.language_bad import LANGUAGE_BAD
from vector_sources.messages import MESSAGES_GOOD
from vector_sources.messages_bad import MESSAGES_BAD
from vector_sources.proposed import PROPOSED_MESSAGES, PROPOSED_TENSORS
from vector_sources.proposed_boards import PROPOSED_BOARDS
from vector_sources.proposed_language import PROPOSED_LANGUAGE
from vector_sources.serial import (
    BOARD_MESSAGES_BAD,
    BOARD_MESSAGES_GOOD,
    COBS,
    CRCS,
    FRAMES_BAD,
    FRAMES_GOOD,
    HEADERS_BAD,
)
from vector_sources.tensors import TENSORS_BAD, TENSORS_GOOD
from vector_sources.tiny_records import tiny_vectors
from vector_sources.topics import TOPICS_BAD, TOPICS_GOOD

VECTORS = Path(__file__).parent / "vectors"
_TYPE_OF_NAME = {
    message_class.__name__: int(message_class.TYPE) for message_class in MESSAGE_CLASSES.values()
}


def hex_text(spaced: str) -> str:
    """Hex without the spaces that separate fields; fails if it is not hex."""
    return bytes.fromhex(spaced).hex()


def to_json(value: object) -> Json:
    """A message or part of one as JSON: bytes as {"hex": ...}, codes as integers."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, cbor2.CBORTag):
        return {"tag": value.tag, "value": to_json(value.value)}
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return cast("Json", value)


def cbor_vectors() -> dict[str, Json]:
    """Single CBOR items."""
    good: list[Json] = [
        {"name": name, "origin": origin, "value": value, "hex": hex_text(data), "write": write}
        for table, write in ((CBOR_GOOD, True), (CBOR_READ_ONLY, False))
        for name, origin, value, data in table
    ]
    bad: list[Json] = [
        {"name": name, "origin": origin, "why": why, "hex": hex_text(data)}
        for name, origin, why, data in CBOR_BAD
    ]
    unused: list[Json] = [
        {"name": name, "origin": origin, "why": why, "hex": hex_text(data)}
        for name, origin, why, data in CBOR_UNUSED
    ]
    return {
        "about": 'CBOR items. In values {"hex": ...} is a byte string and {"tag": ..., "value": ...}'
        " a tag. write: a writer writes just these bytes; else they are only to be read."
        " bad: refuse. unused: well-formed, but refuse every message that has it as a field.",
        "good": good,
        "bad": bad,
        "unused": unused,
    }


def envelope_vectors() -> dict[str, Json]:
    """The six elements around a body."""
    good: list[Json] = [
        _envelope(name, boot, seq, epoch)
        for name, boot, seq, epoch in (
            ("zeros", "00", "00", "00"),
            ("one_byte", "17", "01", "01"),
            ("two_bytes", "18ff", "1818", "1819"),
            ("three_bytes", "19ffff", "190100", "1903e8"),
            ("five_bytes", "1adeadbeef", "1a00010000", "1affffffff"),
            ("nine_bytes", "1bffffffffffffffff", "1b0000000100000000", "1bfffffffffffffffe"),
        )
    ]
    bad: list[Json] = [
        {"name": name, "why": why, "hex": hex_text(data), "cddl_accepts": unseen}
        for name, why, data, unseen in ENVELOPES_BAD
    ]
    return {
        "about": "Whole publishes with the body of a NodeStatus. cddl_accepts: maille.cddl cannot"
        " tell, because what is wrong is not in the item's structure.",
        "good": good,
        "bad": bad,
    }


def _envelope(name: str, boot: str, seq: str, epoch: str) -> Json:
    """By hand but for the numbers, which are read from their own bytes."""

    def number(data: str) -> int:
        octets = bytes.fromhex(data)
        return octets[0] if len(octets) == 1 else int.from_bytes(octets[1:], "big")

    return {
        "name": name,
        "origin": HAND,
        "type": 1,
        "boot": number(boot),
        "seq": number(seq),
        "epoch": number(epoch),
        "body_hex": "820160",
        "hex": hex_text("86 01 01" + boot + seq + epoch + "82 01 60"),
    }


def message_vectors() -> dict[str, Json]:
    """Every message type."""
    good: list[Json] = []
    for name, message, boot, seq, epoch, fields, body_hex, whole_hex in (
        *MESSAGES_GOOD,
        *LANGUAGE_GOOD,
        *BOARDS_GOOD,
    ):
        body = to_json(cbor2.loads(bytes.fromhex(body_hex)))
        good.append(
            {
                **_head(name, HAND, message, boot, seq, epoch),
                "fields": fields,
                "body": body,
                "body_hex": hex_text(body_hex),
                "hex": hex_text(whole_hex),
            }
        )
    good += [
        _proposed(name, message)
        for name, message in (*PROPOSED_MESSAGES, *PROPOSED_LANGUAGE, *PROPOSED_BOARDS)
    ]
    bad: list[Json] = [
        {
            "name": name,
            "message": message,
            "type": _TYPE_OF_NAME[message],
            "why": why,
            "body_hex": hex_text(body),
            "hex": hex_text("86 01" + _uint8(_TYPE_OF_NAME[message]) + "00 01 00" + body),
            "cddl_accepts": unseen,
        }
        for name, message, why, body, unseen in (*MESSAGES_BAD, *LANGUAGE_BAD, *BOARDS_BAD)
    ]
    return {
        "about": 'Every message. fields: by name; body: by position; {"hex": ...} is a byte string;'
        " body_hex: the body alone; hex: the whole publish. origin encoder: made by the Python"
        " implementation; by hand: written byte by byte.",
        "good": good,
        "bad": bad,
    }


def _head(name: str, origin: str, message: str, boot: int, seq: int, epoch: int) -> dict[str, Json]:
    return {
        "name": name,
        "origin": origin,
        "message": message,
        "type": _TYPE_OF_NAME[message],
        "boot": boot,
        "seq": seq,
        "epoch": epoch,
    }


def _proposed(name: str, message: Message) -> Json:
    boot, seq, epoch = 0x0123456789ABCDEF, 1000, 70000
    body = message.to_body()
    return {
        **_head(name, ENCODER, type(message).__name__, boot, seq, epoch),
        "fields": to_json(message),
        "body": to_json(body),
        "body_hex": cbor.encode(body).hex(),
        "hex": pack(message, boot=boot, seq=seq, epoch=epoch).hex(),
    }


def _uint8(number: int) -> str:
    return f"{number:02x}" if number < 24 else f"18{number:02x}"


def tensor_vectors() -> dict[str, Json]:
    """Named tensors."""
    good: list[Json] = [
        {
            "name": name,
            "origin": origin,
            "tensors": tensors,
            "hex": hex_text(data),
            "write": write,
        }
        for name, origin, tensors, data, write in TENSORS_GOOD
    ]
    good += [
        {
            "name": name,
            "origin": ENCODER,
            "tensors": [_tensor(key, array) for key, array in tensors.items()],
            "hex": encode_tensors(tensors).hex(),
            "write": True,
        }
        for name, tensors in PROPOSED_TENSORS
    ]
    bad: list[Json] = [
        {"name": name, "why": why, "hex": hex_text(data), "cddl_accepts": unseen}
        for name, why, data, unseen in TENSORS_BAD
    ]
    return {
        "about": "Named tensors. elements: row-major; floats as text. write: a writer writes just"
        " these bytes. cddl_accepts: maille.cddl cannot tell.",
        "good": good,
        "bad": bad,
    }


def _tensor(name: str, array: Array) -> Json:
    elements = array.ravel().tolist()
    if array.dtype.kind == "f":
        elements = [repr(element) for element in elements]
    return {
        "name": name,
        "dtype": dtype_name(array),
        "shape": list(array.shape),
        "elements": elements,
    }


def topic_vectors() -> dict[str, Json]:
    """Texts of topics."""
    places = {(topic.party.value, topic.suffix): topic for topic in topics.TOPICS}
    good: list[Json] = []
    for text, mesh, party, identity, suffix in TOPICS_GOOD:
        topic = places[party, suffix]
        good.append(
            {
                "topic": text,
                "mesh": mesh,
                "party": party,
                "identity": identity,
                "suffix": suffix,
                "publisher": topic.publisher.value,
                "qos": topic.qos,
                "retain": topic.retain,
                "type": int(topic.message),
            }
        )
    return {
        "about": "Topics. party: n node, c coordinator, u client. type: of the message it carries.",
        "good": good,
        "bad": [{"topic": text, "why": why} for text, why in TOPICS_BAD],
    }


def serial_frame_vectors() -> dict[str, Json]:
    """Frames of the serial link."""
    return {
        "about": "Frames of SERIAL.md. crcs: of `data`, as it stands on the wire. cobs: without a"
        " delimiter. good: hex is the header and payload, wire the frame with its delimiter."
        " bad: what stands before a delimiter and is no frame. bad_headers: well-formed frames that"
        " the other end (board: comes from a board) must throw away.",
        "crcs": [
            {"origin": origin, "data": hex_text(data), "crc": hex_text(crc)}
            for origin, data, crc in CRCS
        ],
        "cobs": [
            {"origin": origin, "data": hex_text(data), "cobs": hex_text(cobs)}
            for origin, data, cobs in COBS
        ],
        "good": [
            {
                "name": name,
                "origin": ENCODER,
                "board": board,
                "hex": hex_text(body),
                "wire": encode_frame(bytes.fromhex(body)).hex(),
            }
            for name, board, body in FRAMES_GOOD
        ],
        "bad": [
            {"name": name, "why": why, "hex": hex_text(wire)} for name, why, wire in FRAMES_BAD
        ],
        "bad_headers": [
            {"name": name, "why": why, "board": board, "hex": hex_text(body)}
            for name, body, board, why in HEADERS_BAD
        ],
    }


def serial_message_vectors() -> dict[str, Json]:
    """Messages between a board and its gateway."""
    return {
        "about": "Board messages of SERIAL.md: class and fields as in the Python codec.",
        "good": [
            {
                "name": name,
                "origin": HAND,
                "class": kind,
                "fields": cast("Json", fields),
                "hex": hex_text(data),
            }
            for name, kind, fields, data in BOARD_MESSAGES_GOOD
        ],
        "bad": [
            {"name": name, "why": why, "hex": hex_text(data)}
            for name, why, data in BOARD_MESSAGES_BAD
        ],
    }


def files() -> dict[str, str]:
    """File name to text."""
    makers = {
        "cbor.json": cbor_vectors,
        "envelope.json": envelope_vectors,
        "messages.json": message_vectors,
        "serial_frames.json": serial_frame_vectors,
        "serial_messages.json": serial_message_vectors,
        "tensors.json": tensor_vectors,
        "tiny.json": tiny_vectors,
        "topics.json": topic_vectors,
    }
    return {
        name: json.dumps({"protocol": PROTOCOL_VERSION, **make()}, indent=1) + "\n"
        for name, make in makers.items()
    }


def main(arguments: list[str]) -> int:
    """Write or check; the exit status."""
    proposed = files()
    stale = [
        name
        for name, text in proposed.items()
        if not (VECTORS / name).exists() or (VECTORS / name).read_text("utf-8") != text
    ]
    if "--check" in arguments:
        for name in stale:
            print(f"protocol/vectors/{name} is not what make_vectors.py proposes: review, then run")
        return 1 if stale else 0
    VECTORS.mkdir(exist_ok=True)
    for name in stale:
        (VECTORS / name).write_text(proposed[name], "utf-8")
        print(f"wrote protocol/vectors/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
