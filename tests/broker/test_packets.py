from hypothesis import given
from hypothesis import strategies as st

from maille_broker import Message, packets
from maille_broker.packets import Decoder, Delivery, Malformed, Oversized, Will

# MQTT 3.1.1, section 3.3 and figures 3.5 to 3.11: written out by hand, not by our encoder.
PUBLISH_A_B = bytes.fromhex("300700") + b"\x03a/b" + b"hi"
SUBACK = bytes.fromhex("9005000a000280")

topics = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


def test_hand_written_packets() -> None:
    assert packets.encode_publish("a/b", b"hi") == PUBLISH_A_B
    assert packets.encode_publish("a/b", b"hi", qos=1, retain=True, packet_id=258) == (
        bytes.fromhex("330900") + b"\x03a/b\x01\x02hi"
    )
    assert packets.encode_subscribe(10, [("a/#", 1)]) == (
        bytes.fromhex("8208000a0003") + b"a/#" + b"\x01"
    )
    connect = packets.encode_connect(
        "id", keepalive_s=10, username="u", password="p", will=Will("w", b"x", 1, retain=True)
    )
    assert connect == bytes.fromhex("101a") + (
        b"\x00\x04MQTT\x04\xee\x00\x0a" + b"\x00\x02id\x00\x01w\x00\x01x\x00\x01u\x00\x01p"
    )
    decoded = Decoder(1000).feed(PUBLISH_A_B + SUBACK + b"\x20\x02\x01\x00\x40\x02\x01\x02\xd0\x00")
    assert decoded == [
        Message("a/b", b"hi", retain=False),
        packets.SubscribeAck(10, (0, 2, 128)),
        packets.ConnectAck(0, session_present=True),
        packets.PublishAck(258),
        packets.PingAck(),
    ]


@given(
    st.lists(
        st.tuples(topics, st.binary(max_size=300), st.booleans(), st.integers(0, 1)), max_size=8
    ),
    st.data(),
)
def test_any_cut_gives_the_same_packets(
    publishes: list[tuple[str, bytes, bool, int]], data: st.DataObject
) -> None:
    stream = b""
    wanted: list[packets.Packet] = []
    for number, (topic, payload, retain, qos) in enumerate(publishes, 1):
        stream += packets.encode_publish(
            topic, payload, qos=qos, retain=retain, packet_id=number if qos else 0
        )
        message = Message(topic, payload, retain)
        wanted.append(Delivery(message, number, 1, duplicate=False) if qos else message)
    assert Decoder(10_000).feed(stream) == wanted
    decoder = Decoder(10_000)
    got: list[packets.Packet] = []
    position = 0
    while position < len(stream):
        size = data.draw(st.integers(1, 40))
        got += decoder.feed(stream[position : position + size])
        position += size
    assert got == wanted


@given(st.binary(max_size=400), st.integers(1, 50))
def test_noise_never_raises_and_ends_the_stream_at_most_once(noise: bytes, size: int) -> None:
    decoder = Decoder(200)
    got: list[packets.Packet] = []
    for position in range(0, len(noise), size):
        got += decoder.feed(noise[position : position + size])
    broken = [index for index, packet in enumerate(got) if isinstance(packet, Malformed)]
    assert broken in ([], [len(got) - 1])
    if broken:
        assert decoder.feed(PUBLISH_A_B) == []


def test_oversized_packet_is_skipped_without_being_kept() -> None:
    decoder = Decoder(100)
    big = packets.encode_publish("a", bytes(100_000))
    got: list[packets.Packet] = []
    for position in range(0, len(big), 1000):
        got += decoder.feed(big[position : position + 1000])
        assert len(decoder._buffer) <= 100
    got += decoder.feed(PUBLISH_A_B)
    assert got == [Oversized(100_003), Message("a/b", b"hi", retain=False)]
    assert Decoder(100).feed(big + PUBLISH_A_B) == got


def test_length_of_five_bytes_is_malformed() -> None:
    (packet,) = Decoder(100).feed(b"\x30\xff\xff\xff\xff\x01")
    assert isinstance(packet, Malformed)
