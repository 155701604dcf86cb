"""The proxy that makes a network worse, between two ends that are lists of bytes."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from maille_broker.packets import encode_publish as publish
from maille_simulator.real.proxy import FaultProxy, Publishes, TopicCounter, packet_end
from maille_simulator.scenario.values import LinkQuality


@asynccontextmanager
async def echo_through_proxy() -> AsyncIterator[
    tuple[FaultProxy, asyncio.StreamReader, asyncio.StreamWriter]
]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = FaultProxy(server.sockets[0].getsockname()[1], Random(1))
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield proxy, reader, writer
    finally:
        writer.transport.abort()
        await proxy.close()
        server.close()
        await server.wait_closed()


async def round_trip_s(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"ping"
) -> float:
    begin_s = time.monotonic()
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), 10) == data
    return time.monotonic() - begin_s


def test_what_goes_in_comes_out_in_order() -> None:
    async def run() -> None:
        async with echo_through_proxy() as (proxy, reader, writer):
            proxy.quality = LinkQuality(jitter_ms=3.0)
            data = b"".join(number.to_bytes(4, "big") for number in range(20_000))
            await round_trip_s(reader, writer, data)

    asyncio.run(run())


def test_latency_counts_both_ways() -> None:
    async def run() -> None:
        async with echo_through_proxy() as (proxy, reader, writer):
            await round_trip_s(reader, writer)
            proxy.quality = LinkQuality(latency_ms=150.0)
            assert 0.3 <= await round_trip_s(reader, writer) < 5.0

    asyncio.run(run())


def test_bandwidth_makes_much_slow() -> None:
    async def run() -> None:
        async with echo_through_proxy() as (proxy, reader, writer):
            proxy.quality = LinkQuality(bytes_per_s=40_000.0)
            assert await round_trip_s(reader, writer, bytes(20_000)) >= 0.9

    asyncio.run(run())


def test_a_partition_holds_back_and_heals() -> None:
    async def run() -> None:
        async with echo_through_proxy() as (proxy, reader, writer):
            await round_trip_s(reader, writer)
            proxy.cut()
            writer.write(b"late")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(4), 0.3)
            proxy.heal()
            assert await asyncio.wait_for(reader.readexactly(4), 5) == b"late"

    asyncio.run(run())


def test_a_flap_breaks_the_connection_and_the_next_one_works() -> None:
    async def run() -> None:
        async with echo_through_proxy() as (proxy, reader, writer):
            await round_trip_s(reader, writer)
            proxy.reset()
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 5)
            again, other = await asyncio.open_connection("127.0.0.1", proxy.port)
            await round_trip_s(again, other)
            other.transport.abort()

    asyncio.run(run())


def test_nobody_behind_the_proxy_closes_the_connection() -> None:
    async def run() -> None:
        proxy = FaultProxy(1, Random(1))
        await proxy.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        writer.transport.abort()
        await proxy.close()

    asyncio.run(run())


def packets() -> list[bytes]:
    topic = "maille/1/sim/n/a/up/res"
    return [publish(topic, bytes(size)) for size in (0, 3, 200, 20_000)]


@pytest.mark.parametrize("step", [1, 2, 7, 1000, 10**6])
def test_publishes_are_doubled_however_they_come(step: int) -> None:
    stream = b"\xd0\x00".join(packets())
    splitter, out = Publishes(), b""
    for start in range(0, len(stream), step):
        out += splitter.doubled(stream[start : start + step], 1.0, Random(1))
    assert out == b"\xd0\x00".join(packet * 2 for packet in packets())
    assert splitter.rest() == b""


@pytest.mark.parametrize("step", [1, 5, 10**6])
def test_bytes_are_counted_by_topic(step: int) -> None:
    found: Counter[str] = Counter()
    counter = TopicCounter(found)
    stream = b"".join(packets()) + publish("maille/1/sim/c/coordinator", b"x")
    for start in range(0, len(stream), step):
        counter.count(stream[start : start + step])
    assert found["up/res"] == sum(len(packet) for packet in packets())
    assert found["coordinator"] > 0


def test_packets_end_where_mqtt_says() -> None:
    assert packet_end(b"", 0) is None
    assert packet_end(b"\x30", 0) is None
    assert packet_end(b"\x30\x02ab", 0) == 4
    assert packet_end(b"\x30\x82\x01" + bytes(130), 0) == 133
    assert packet_end(b"\x30\x82\x01" + bytes(129), 0) is None
