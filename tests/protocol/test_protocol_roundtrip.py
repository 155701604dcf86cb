"""What is written is read back, whatever it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_files import vectors
from wire_strategies import MESSAGES, named_tensors

from maille_protocol import Message, MessageType, cbor, pack, unpack
from maille_protocol.limits import MAX_PUBLISH_BYTES, MAX_UINT64
from maille_protocol.messages import MESSAGE_CLASSES
from maille_protocol.tensors import Array, decode_tensors, encode_tensors

uint64 = st.integers(0, MAX_UINT64)


def test_strategies_cover_every_message() -> None:
    assert set(MESSAGES) == set(MessageType) == set(MESSAGE_CLASSES)


@pytest.mark.parametrize("message_type", MessageType, ids=lambda found: found.name)
def test_message(message_type: MessageType) -> None:
    @settings(max_examples=40, deadline=None)
    @given(MESSAGES[message_type], uint64, uint64, uint64)
    def check(message: Message, boot: int, seq: int, epoch: int) -> None:
        data = pack(message, boot=boot, seq=seq, epoch=epoch)
        assert len(data) <= MAX_PUBLISH_BYTES
        envelope = unpack(data, frozenset({message_type}))
        assert envelope.message == message
        assert type(envelope.message) is type(message)
        assert (envelope.boot, envelope.seq, envelope.epoch) == (boot, seq, epoch)

    check()


@settings(max_examples=150, deadline=None)
@given(named_tensors)
def test_tensors(tensors: dict[str, Array]) -> None:
    data = encode_tensors(tensors)
    found = decode_tensors(data)
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype.newbyteorder("=")
        if array.dtype.kind == "O":
            assert found[name].tolist() == array.tolist()
        else:
            native = array.astype(array.dtype.newbyteorder("="))
            assert found[name].tobytes() == native.tobytes()
    assert encode_tensors(found) == data


def test_tensors_of_any_memory_layout() -> None:
    base = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    layouts: dict[str, Array] = {
        "transposed": base.T,
        "every second": base[:, :, ::2],
        "backwards": base[::-1],
        "fortran": np.asfortranarray(base),
        "broadcast": np.broadcast_to(base[0, 0], (5, 4)),
        "fixed-width text": np.array(["a", "\u00fcber"]),
    }
    found = decode_tensors(encode_tensors(layouts))
    for name, array in layouts.items():
        assert np.array_equal(found[name], array), name


def test_numeric_tensors_are_views_of_the_message() -> None:
    data = encode_tensors({"X": np.zeros(1000, np.float32)})
    found = decode_tensors(data)["X"]
    assert not found.flags.owndata
    assert not found.flags.writeable


@pytest.mark.parametrize("message_type", MessageType, ids=lambda found: found.name)
def test_writing_is_deterministic(message_type: MessageType) -> None:
    """A reader that re-encodes what it read gets the same bytes."""
    vector = next(v for v in vectors("messages", "good") if v.number("type") == message_type)
    value = cbor.decode(vector.data)
    assert isinstance(value, list)
    assert cbor.encode(value) == vector.data
