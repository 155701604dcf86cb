"""Whatever bytes arrive: a message, or a WireError. Nothing else, and cheaply."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire_files import vectors
from wire_strategies import any_message

from maille_protocol import Message, WireError, cbor, pack, topics, unpack
from maille_protocol.limits import MAX_PUBLISH_BYTES
from maille_protocol.tensors import decode_tensors

MESSAGES = [vector.data for vector in vectors("messages", "good")]
TENSORS = [vector.data for vector in vectors("tensors", "good")]
HEADS = [
    bytes.fromhex(f"8601{number}000100")
    for number in ("01", "02", "03", "04", "07", "08", "10", "13", "14", "15", "16", "1820")
]
BY_HAND = [v.data for v in vectors("messages", "good") if v.text("origin") == "by hand"]

quick = settings(max_examples=150, deadline=None)


def survives(read: Callable[[bytes], object], data: bytes) -> None:
    """`read` gives a value or refuses with a text of one short line."""
    refusal = ""
    try:
        read(data)
    except WireError as error:
        refusal = str(error)
    assert len(refusal) < 400


@quick
@given(st.binary(max_size=300))
@example(b"")
@example(b"\x81" * MAX_PUBLISH_BYTES)
@example(b"\x9f" * MAX_PUBLISH_BYTES)
@example(b"\xa1" * MAX_PUBLISH_BYTES)
@example(b"\xd8\x28" * (MAX_PUBLISH_BYTES // 2))
@example(b"\x99\xbf\xf0" + b"\x80" * (MAX_PUBLISH_BYTES - 16))
@example(b"\x99\xbf\xf0" + b"\xf7" * (MAX_PUBLISH_BYTES - 16))
@example(b"\x86" + b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff" * 6)
def test_random_bytes(data: bytes) -> None:
    survives(cbor.decode, data)
    survives(unpack, data)
    survives(decode_tensors, data)


@quick
@given(st.sampled_from(HEADS), st.binary(max_size=200))
def test_random_bodies(head: bytes, body: bytes) -> None:
    survives(unpack, head + body)


@quick
@given(st.sampled_from(MESSAGES), st.data())
def test_mutated_messages(message: bytes, data: st.DataObject) -> None:
    survives(unpack, mutate(message, data))


@quick
@given(st.sampled_from(TENSORS), st.data())
def test_mutated_tensors(tensors: bytes, data: st.DataObject) -> None:
    survives(decode_tensors, mutate(tensors, data))


def mutate(good: bytes, data: st.DataObject) -> bytes:
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(changed) - 1)))
        length = data.draw(st.integers(0, 3))
        changed[place : place + length] = data.draw(st.binary(max_size=9))
    return bytes(changed)


@pytest.mark.parametrize("good", MESSAGES, ids=lambda good: good[:12].hex())
def test_every_truncation_is_refused(good: bytes) -> None:
    step = max(1, len(good) // 500)
    for length in range(0, len(good), step):
        with pytest.raises(WireError):
            unpack(good[:length])


@pytest.mark.parametrize("good", TENSORS, ids=lambda good: good[:16].hex())
def test_every_truncation_of_tensors_is_refused(good: bytes) -> None:
    for length in range(len(good)):
        with pytest.raises(WireError):
            decode_tensors(good[:length])


@settings(max_examples=60, deadline=None)
@given(any_message, st.binary(min_size=1, max_size=8))
def test_anything_after_a_message_is_refused(message: Message, tail: bytes) -> None:
    data = pack(message, boot=1, seq=1, epoch=1)
    with pytest.raises(WireError):
        unpack(data + tail)


@pytest.mark.parametrize("good", BY_HAND, ids=lambda good: good[:12].hex())
def test_every_single_byte_of_a_message_may_be_any(good: bytes) -> None:
    for place in range(len(good)):
        for value in (0x00, 0x1B, 0x5B, 0x7F, 0x80, 0x9B, 0x9F, 0xBF, 0xC2, 0xD8, 0xF6, 0xF9, 0xFF):
            survives(unpack, good[:place] + bytes([value]) + good[place + 1 :])


@quick
@given(st.text(max_size=80))
@example("maille/1/" + "a/" * 5000)
@example("maille/1/home/n/" + "a" * 60000 + "/state")
@example("/" * 60000)
def test_random_topics(text: str) -> None:
    refusal = ""
    try:
        topics.parse(text)
    except WireError as error:
        refusal = str(error)
    assert len(refusal) < 400


@quick
@given(st.sampled_from([v.name for v in vectors("topics", "good")]), st.data())
def test_mutated_topics(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 4))
    changed = (
        text[:place] + data.draw(st.text("/+#$n1a-.\n\u0661", max_size=4)) + text[place + length :]
    )
    try:
        address = topics.parse(changed)
    except WireError:
        return
    assert address.topic.on(address.mesh, address.identity) == changed


@pytest.mark.parametrize("place", range(6))
def test_a_refusal_does_not_repeat_what_was_sent(place: int) -> None:
    """Error texts go into logs: a peer must not be able to fill them."""
    elements = [bytes([number]) for number in (1, 1, 0, 1, 0)] + [bytes.fromhex("820160")]
    elements[place] = bytes.fromhex("d8 28 82 80 d8 40 59 9c40") + bytes(40000)
    with pytest.raises(WireError) as refusal:
        unpack(b"\x86" + b"".join(elements))
    assert len(str(refusal.value)) < 100


_HOSTILE = """
import sys
from maille_protocol import WireError, unpack
from maille_protocol.tensors import decode_tensors

def peak_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmPeak"))

inputs = [bytes.fromhex(line.strip()) for line in sys.stdin]
before = peak_kib()
for data in inputs:
    for read in (unpack, decode_tensors):
        try:
            read(data)
        except WireError:
            continue
        raise SystemExit(f"{data[:20].hex()} was read")
print(peak_kib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_announced_lengths_reserve_no_memory() -> None:
    """In a fresh process: 200 hostile inputs together grow it by less than 16 MiB."""
    bad = [vector.data for vector in vectors("cbor", "bad")]
    bad += [bytes.fromhex("81 82 61 78") + data for data in bad]
    bad += [bytes.fromhex("86 01 04 00 01 00") + data for data in bad[: len(bad) // 2]]
    done = subprocess.run(
        [sys.executable, "-c", _HOSTILE],
        input="\n".join(data.hex() or "ff" for data in bad),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert int(done.stdout) < 16 * 1024
