"""At a limit it works, one beyond it does not, on both sides."""

import cbor2
import numpy as np
import pytest

from maille_protocol import (
    Ask,
    Envelope,
    Log,
    Reference,
    Result,
    Results,
    UsageError,
    WireError,
    cbor,
    pack,
    unpack,
)
from maille_protocol.codes import ErrorCode, MessageType, ResultStatus
from maille_protocol.contents import Content
from maille_protocol.limits import (
    MAX_DEPTH,
    MAX_DIMENSIONS,
    MAX_INLINE_CONTENT_BYTES,
    MAX_ITEMS_PER_MESSAGE,
    MAX_PUBLISH_BYTES,
    MAX_TENSORS,
    MAX_TEXT_CHARACTERS,
)
from maille_protocol.messages import MESSAGE_CLASSES
from maille_protocol.tensors import decode_tensors, encode_tensors

_BOOT_9_BYTES = 1 << 40
_SEQ_5_BYTES = 1 << 20


def _ask(count: int) -> Ask:
    return Ask((bytes(16),) * count)


def _result(content: Content) -> Results:
    return Results((Result(bytes(16), 1, 1, ResultStatus.DONE, ErrorCode.NONE, content, 0, 0),))


def test_the_largest_publish() -> None:
    message = _ask(2890)
    data = pack(message, boot=_BOOT_9_BYTES, seq=_SEQ_5_BYTES, epoch=0)
    assert len(data) == MAX_PUBLISH_BYTES
    assert unpack(data) == Envelope(_BOOT_9_BYTES, _SEQ_5_BYTES, 0, message)


def test_one_byte_more_is_neither_sent_nor_read() -> None:
    message = _ask(2890)
    with pytest.raises(UsageError, match="a publish holds 49152"):
        pack(message, boot=_BOOT_9_BYTES, seq=_SEQ_5_BYTES, epoch=24)
    data = cbor.encode([1, 33, _BOOT_9_BYTES, _SEQ_5_BYTES, 24, message.to_body()])
    assert len(data) == MAX_PUBLISH_BYTES + 1
    with pytest.raises(WireError, match="49152 are allowed"):
        unpack(data)


def test_items() -> None:
    full = cbor.encode([1, 35, 0, 1, 0, [0] * MAX_ITEMS_PER_MESSAGE])
    assert unpack(full)
    with pytest.raises(WireError, match="4096 are allowed"):
        unpack(cbor.encode([1, 35, 0, 1, 0, [0] * (MAX_ITEMS_PER_MESSAGE + 1)]))


def test_text_is_counted_in_characters() -> None:
    longest = "\U0001f9f6" * MAX_TEXT_CHARACTERS
    assert unpack(pack(Log(20, longest), boot=1, seq=1, epoch=1)).message == Log(20, longest)
    with pytest.raises(WireError, match="at most 2000 characters"):
        unpack(pack(Log(20, longest + "."), boot=1, seq=1, epoch=1))


def test_inline_content() -> None:
    data = pack(_result(bytes(MAX_INLINE_CONTENT_BYTES)), boot=1, seq=1, epoch=1)
    assert unpack(data)
    with pytest.raises(WireError, match="40960 are allowed"):
        unpack(pack(_result(bytes(MAX_INLINE_CONTENT_BYTES + 1)), boot=1, seq=1, epoch=1))
    assert unpack(pack(_result(Reference(bytes(32), 1 << 36)), boot=1, seq=1, epoch=1))
    with pytest.raises(WireError, match="content size"):
        unpack(pack(_result(Reference(bytes(32), (1 << 36) + 1)), boot=1, seq=1, epoch=1))


def _nested(depth: int) -> bytes:
    return b"\x81" * depth + b"\x00"


def test_depth() -> None:
    assert cbor.decode(_nested(MAX_DEPTH))
    with pytest.raises(WireError):
        cbor.decode(_nested(MAX_DEPTH + 1))


def _depth_of(value: object) -> int:
    if isinstance(value, list | tuple):
        return 1 + max((_depth_of(item) for item in value), default=0)
    if isinstance(value, cbor2.CBORTag):
        return 1 + _depth_of(value.value)
    return 0


def test_messages_and_tensors_are_as_deep_as_the_specification_says() -> None:
    result = cbor.decode(pack(_result(Reference(bytes(32), 1)), boot=1, seq=1, epoch=1))
    assert _depth_of(result) == 4
    submit: cbor.Plain = [
        1,
        32,
        0,
        1,
        0,
        [0, "a", 0, 5, 0, 0, 0, None, [[bytes(16), [bytes(32), 1]]]],
    ]
    assert unpack(cbor.encode(submit))
    assert _depth_of(submit) == 5
    tokens: cbor.Plain = [1, 7, 0, 1, 0, [0, 0, 0, [[0, 0, [[0, 0]]]], 0, ""]]
    assert unpack(cbor.encode(tokens))
    assert _depth_of(tokens) == 6
    assert _depth_of(cbor.decode(encode_tensors({"X": np.zeros(2, np.float32)}))) == 5


def test_tensors_count() -> None:
    full = {str(index): np.zeros(1, np.uint8) for index in range(MAX_TENSORS)}
    assert len(decode_tensors(encode_tensors(full))) == MAX_TENSORS
    with pytest.raises(UsageError, match="256 are allowed"):
        encode_tensors(full | {"one more": np.zeros(1, np.uint8)})


def test_dimensions() -> None:
    assert decode_tensors(encode_tensors({"X": np.zeros((1,) * MAX_DIMENSIONS)}))
    with pytest.raises(UsageError, match="8 are allowed"):
        encode_tensors({"X": np.zeros((1,) * (MAX_DIMENSIONS + 1))})


def test_tensor_names() -> None:
    assert decode_tensors(encode_tensors({"\U0001f9f6" * 256: np.zeros(1)}))
    with pytest.raises(UsageError, match="at most 256"):
        encode_tensors({"x" * 257: np.zeros(1)})


@pytest.mark.parametrize(
    "array",
    [
        np.array([1j]),
        np.array(["2026-01-01"], dtype="datetime64[D]"),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.array([b"bytes"]),
        np.array([object()]),
        np.array(["text", 1], dtype=object),
    ],
    ids=lambda array: str(array.dtype),
)
def test_what_cannot_be_sent_is_named(
    array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]",
) -> None:
    with pytest.raises(UsageError, match=r"X: type .* use a number, bool or text type"):
        encode_tensors({"X": array})


def test_text_that_is_no_unicode_is_our_own_mistake() -> None:
    with pytest.raises(UsageError, match="not encodable"):
        pack(Log(20, "\ud800"), boot=1, seq=1, epoch=1)


def test_what_cbor_cannot_hold_is_our_own_mistake() -> None:
    with pytest.raises(UsageError, match="not encodable"):
        cbor.encode([object()])  # type: ignore[list-item]


def test_message_types_fit_their_ranges() -> None:
    assert set(MESSAGE_CLASSES) == set(MessageType)
    assert all(0 < message_type < 48 for message_type in MessageType)


def test_refusals_name_the_version_to_update() -> None:
    with pytest.raises(WireError, match="protocol version 2, this program speaks 1: update"):
        unpack(bytes.fromhex("86 02 01 00 01 00 82 01 60"))
