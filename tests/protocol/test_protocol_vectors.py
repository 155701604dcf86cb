"""The Python implementation passes every vector, and the vectors are what they claim to be."""

import dataclasses
import subprocess
import sys

import cbor2
import numpy as np
import pytest
from wire_files import PROTOCOL, VECTOR_FILES, Json, Vector, load, vectors

from maille_protocol import WireError, cbor, pack, topics, unpack
from maille_protocol.codes import MessageType
from maille_protocol.limits import PROTOCOL_VERSION
from maille_protocol.messages import MESSAGE_CLASSES
from maille_protocol.signature import dtype_name
from maille_protocol.tensors import Array, decode_tensors, encode_tensors

_NODE_STATUS = frozenset({MessageType.NODE_STATUS})


def plain(value: object) -> Json:
    """A decoded value as the vectors write it."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    match value:
        case bytes():
            return {"hex": value.hex()}
        case list() | tuple():
            return [plain(item) for item in value]
        case cbor2.CBORTag():
            return {"tag": value.tag, "value": plain(value.value)}
        case bool() | str() | None:
            return value
        case int():
            return int(value)
    raise AssertionError(f"{value!r} is not in any vector")


def from_plain(value: Json) -> cbor.Plain:
    match value:
        case {"hex": str(text)}:
            return bytes.fromhex(text)
        case {"tag": int(tag), "value": content}:
            return cbor2.CBORTag(tag, from_plain(content))
        case list():
            return [from_plain(item) for item in value]
        case dict():
            raise AssertionError(f"{value} is neither bytes nor a tag")
        case _:
            return value


# --- the files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", VECTOR_FILES)
def test_file_carries_the_version_and_names_once(file: str) -> None:
    assert load(file)["protocol"] == PROTOCOL_VERSION
    for kind in ("good", "bad"):
        names = [vector.name for vector in vectors(file, kind)]
        assert len(names) == len(set(names))
        assert names
    assert all(vector.text("why") for vector in vectors(file, "bad"))


def test_at_least_as_many_bad_as_good() -> None:
    good = sum(len(vectors(file, "good")) for file in VECTOR_FILES)
    bad = sum(len(vectors(file, "bad")) for file in VECTOR_FILES)
    assert bad >= good


def test_hex_is_plain() -> None:
    for file in VECTOR_FILES:
        for vector in vectors(file, "good") + vectors(file, "bad"):
            for key in ("hex", "body_hex"):
                if key in vector.record:
                    text = vector.text(key)
                    assert bytes.fromhex(text).hex() == text


def test_regeneration_changes_nothing() -> None:
    check = subprocess.run(
        [sys.executable, str(PROTOCOL / "make_vectors.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_every_message_has_a_vector_written_by_hand() -> None:
    by_hand = {
        vector.text("message")
        for vector in vectors("messages", "good")
        if vector.text("origin") == "by hand"
    }
    bad = {vector.text("message") for vector in vectors("messages", "bad")}
    everything = {message_class.__name__ for message_class in MESSAGE_CLASSES.values()}
    assert by_hand == everything
    assert bad == everything


# --- cbor.json -----------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("cbor", "good"), ids=str)
def test_cbor_good(vector: Vector) -> None:
    assert plain(cbor.decode(vector.data)) == vector.record["value"]
    encoded = cbor.encode(from_plain(vector.record["value"]))
    assert (encoded == vector.data) == vector.flag("write")
    assert len(encoded) <= len(vector.data)


@pytest.mark.parametrize("vector", vectors("cbor", "bad"), ids=str)
def test_cbor_bad(vector: Vector) -> None:
    with pytest.raises(WireError):
        cbor.decode(vector.data)


@pytest.mark.parametrize("vector", vectors("cbor", "unused"), ids=str)
def test_cbor_unused_is_no_field(vector: Vector) -> None:
    """Wherever a field of a message may stand."""
    good = bytes.fromhex("86 01 01 01 01 01 82 01 60")
    assert unpack(good)
    places = [slice(index, index + 1) for index in (1, 2, 3, 4, 5, 7, 8)] + [slice(6, 9)]
    for place in places:
        data = bytearray(good)
        data[place] = vector.data
        with pytest.raises(WireError):
            unpack(bytes(data))


@pytest.mark.parametrize("vector", vectors("cbor", "bad"), ids=str)
def test_cbor_bad_is_bad_inside_a_message(vector: Vector) -> None:
    with pytest.raises(WireError):
        unpack(bytes.fromhex("86 01 01 01 01 01") + vector.data)
    with pytest.raises(WireError):
        decode_tensors(bytes.fromhex("81 82 61 78") + vector.data)


# --- envelope.json -------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("envelope", "good"), ids=str)
def test_envelope_good(vector: Vector) -> None:
    envelope = unpack(vector.data, _NODE_STATUS)
    assert envelope.boot == vector.number("boot")
    assert envelope.seq == vector.number("seq")
    assert envelope.epoch == vector.number("epoch")
    assert vector.number("type") == envelope.message.TYPE
    again = pack(
        envelope.message,
        boot=vector.number("boot"),
        seq=vector.number("seq"),
        epoch=vector.number("epoch"),
    )
    assert again == vector.data


@pytest.mark.parametrize("vector", vectors("envelope", "bad"), ids=str)
def test_envelope_bad(vector: Vector) -> None:
    with pytest.raises(WireError):
        unpack(vector.data)


# --- messages.json -------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("messages", "good"), ids=str)
def test_message_good(vector: Vector) -> None:
    message_type = MessageType(vector.number("type"))
    envelope = unpack(vector.data, frozenset({message_type}))
    assert type(envelope.message).__name__ == vector.text("message")
    assert plain(envelope.message) == vector.record["fields"]
    assert [envelope.boot, envelope.seq, envelope.epoch] == [
        vector.number(key) for key in ("boot", "seq", "epoch")
    ]
    body = bytes.fromhex(vector.text("body_hex"))
    assert plain(cbor.decode(body)) == vector.record["body"]
    assert cbor.encode(envelope.message.to_body()) == body
    assert cbor.encode(from_plain(vector.record["body"])) == body
    again = pack(envelope.message, boot=envelope.boot, seq=envelope.seq, epoch=envelope.epoch)
    assert again == vector.data
    assert vector.data.endswith(body)


@pytest.mark.parametrize("vector", vectors("messages", "bad"), ids=str)
def test_message_bad(vector: Vector) -> None:
    with pytest.raises(WireError):
        unpack(vector.data)


@pytest.mark.parametrize("vector", vectors("messages", "bad"), ids=str)
def test_message_bad_has_its_fault_in_the_body(vector: Vector) -> None:
    """The envelope around it is good: a good body in its place is read."""
    body = bytes.fromhex(vector.text("body_hex"))
    assert vector.data.endswith(body)
    head = vector.data[: len(vector.data) - len(body)]
    of_type = [
        other
        for other in vectors("messages", "good")
        if other.number("type") == vector.number("type")
    ]
    assert unpack(head + bytes.fromhex(of_type[0].text("body_hex")))


@pytest.mark.parametrize("vector", vectors("messages", "good"), ids=str)
def test_message_on_a_wrong_topic(vector: Vector) -> None:
    others = frozenset(MessageType) - {MessageType(vector.number("type"))}
    with pytest.raises(WireError, match="does not belong"):
        unpack(vector.data, others)


# --- tensors.json --------------------------------------------------------------------------------


def describe(name: str, array: Array) -> Json:
    elements = array.ravel().tolist()
    if array.dtype.kind == "f":
        elements = [repr(element) for element in elements]
    return {
        "name": name,
        "dtype": dtype_name(array),
        "shape": list(array.shape),
        "elements": elements,
    }


@pytest.mark.parametrize("vector", vectors("tensors", "good"), ids=str)
def test_tensors_good(vector: Vector) -> None:
    tensors = decode_tensors(vector.data)
    assert [describe(name, array) for name, array in tensors.items()] == vector.record["tensors"]
    assert (encode_tensors(tensors) == vector.data) == vector.flag("write")


@pytest.mark.parametrize("vector", vectors("tensors", "good"), ids=str)
def test_tensors_from_their_values(vector: Vector) -> None:
    """Encoding what the vector says, not what was decoded."""
    described = vector.record["tensors"]
    assert isinstance(described, list)
    built: dict[str, Array] = {}
    for tensor in described:
        assert isinstance(tensor, dict)
        name, dtype = tensor["name"], tensor["dtype"]
        elements, shape = tensor["elements"], tensor["shape"]
        assert isinstance(name, str)
        assert isinstance(dtype, str)
        assert isinstance(elements, list)
        assert isinstance(shape, list)
        values = np.array(
            [
                float(item) if isinstance(item, str) and dtype != "str" else item
                for item in elements
            ],
            dtype=object if dtype == "str" else dtype,
        )
        built[name] = values.reshape([int(str(size)) for size in shape])
    assert (encode_tensors(built) == vector.data) == vector.flag("write")


@pytest.mark.parametrize("vector", vectors("tensors", "bad"), ids=str)
def test_tensors_bad(vector: Vector) -> None:
    with pytest.raises(WireError):
        decode_tensors(vector.data)


# --- topics.json ---------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("topics", "good"), ids=str)
def test_topics_good(vector: Vector) -> None:
    address = topics.parse(vector.name)
    topic = address.topic
    assert address.mesh == vector.text("mesh")
    assert address.identity == vector.text("identity")
    assert topic.party.value == vector.text("party")
    assert topic.suffix == vector.text("suffix")
    assert topic.publisher.value == vector.text("publisher")
    assert topic.qos == vector.number("qos")
    assert topic.retain == vector.flag("retain")
    assert topic.message == vector.number("type")
    assert topic.on(address.mesh, address.identity) == vector.name


@pytest.mark.parametrize("vector", vectors("topics", "bad"), ids=str)
def test_topics_bad(vector: Vector) -> None:
    with pytest.raises(WireError):
        topics.parse(vector.name)


def test_every_topic_has_a_vector() -> None:
    seen = {topics.parse(vector.name).topic for vector in vectors("topics", "good")}
    assert seen == set(topics.TOPICS)
