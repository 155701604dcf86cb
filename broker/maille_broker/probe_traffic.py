"""Probes of what a mesh lives on: delivery, size, order, speed and return."""

import asyncio
import secrets
import statistics
import time
from itertools import pairwise

from maille_broker.probe_kit import Bench, Finding
from maille_protocol.limits import MAX_PUBLISH_BYTES

BURST_MESSAGES = 3_000
ROUND_TRIPS = 200
MAX_LATENCY_TIME_S = 0.7
BURST_TIMEOUT_S = 2.0
# Above this an acknowledgement waits for a timer of the operating system, not for the broker.
SLOW_ROUND_TRIP_MS = 5.0
# An acknowledged message may wait for the disk, but not for the 40 ms of a delayed acknowledgement.
SLOW_ACKNOWLEDGED_MS = 20.0


async def wildcards(bench: Bench) -> Finding:
    """Filters match what they must and nothing else; binary payloads stay intact."""
    async with bench.client("a") as reader, bench.client("b") as writer:
        codes = await reader.subscribe((bench.topic("n/+/up/+"), 0), (bench.topic("n/x/dn/#"), 0))
        if any(code > 2 for code in codes):
            return Finding(False, "the broker refused a subscription with wildcards")
        payload = bytes(range(256))
        for suffix in ("n/x/up/hb", "n/y/up/res", "n/x/dn/task", "n/x/state"):
            writer.publish(bench.topic(suffix), payload)
        writer.publish(bench.topic("n/x/dn/end"), b"")
        got: list[tuple[str, bytes]] = []
        while True:
            message, _ = await reader.receive()
            if message.topic == bench.topic("n/x/dn/end"):
                break
            got.append((message.topic, message.payload))
        wanted = {bench.topic(s) for s in ("n/x/up/hb", "n/y/up/res", "n/x/dn/task")}
        # Some brokers deliver through several queues: what is late may still come.
        while len(got) < len(wanted):
            message, _ = await reader.receive()
            got.append((message.topic, message.payload))
        if {topic for topic, _ in got} != wanted or len(got) != len(wanted):
            return Finding(False, f"{len(got)} messages came, {len(wanted)} match the filters")
        if any(body != payload for _, body in got):
            return Finding(False, "a binary payload came back changed")
    return Finding(True, "filters match as they must, binary payloads intact")


async def _size(bench: Bench, size_bytes: int) -> Finding:
    async with bench.client("a") as reader, bench.client("b") as writer:
        await reader.subscribe((bench.topic("size"), 0))
        payload = secrets.token_bytes(1024) * (size_bytes // 1024)
        writer.publish(bench.topic("size"), payload)
        message, _ = await reader.receive()
        return Finding(
            message.payload == payload, f"{size_bytes // 1024} KiB in one publish", size_bytes, "B"
        )


async def size_48_kib(bench: Bench) -> Finding:
    """The largest publish of a mesh arrives."""
    return await _size(bench, MAX_PUBLISH_BYTES)


async def size_1_mib(bench: Bench) -> Finding:
    """A publish of 1 MiB arrives."""
    return await _size(bench, 1024 * 1024)


async def reconnect(bench: Bench) -> Finding:
    """After a lost socket the same client id is back within a second."""
    async with bench.client("b") as writer:
        first = bench.new_client("a")
        await first.connect()
        await first.subscribe((bench.topic("x"), 0))
        await first.drop()
        started_s = time.perf_counter()
        async with bench.client("a") as second:
            await second.subscribe((bench.topic("x"), 0))
            writer.publish(bench.topic("x"), b"back")
            message, _ = await second.receive()
        elapsed_ms = (time.perf_counter() - started_s) * 1000
        return Finding(
            message.payload == b"back" and elapsed_ms < 1000,
            f"back after {elapsed_ms:.0f} ms",
            elapsed_ms,
            "ms",
        )


async def order(bench: Bench) -> Finding:
    """Messages of one publisher arrive in order."""
    count = 250
    async with bench.client("a") as reader, bench.client("b") as writer:
        await reader.subscribe((bench.topic("x"), 0))
        for number in range(count):
            writer.publish(bench.topic("x"), number.to_bytes(2, "big"))
        numbers = [int.from_bytes((await reader.receive())[0].payload, "big") for _ in range(count)]
    wrong = sum(1 for a, b in pairwise(numbers) if b != a + 1)
    return Finding(wrong == 0, f"{wrong} of {count} out of order", wrong, "messages")


async def _burst(bench: Bench, qos: int) -> Finding:
    payload = bytes(100)
    received = 0
    async with bench.client("a") as reader, bench.client("b") as writer:
        await reader.subscribe((bench.topic("x"), qos))

        swallowing = asyncio.create_task(writer.closed_by_broker())
        started_s = last_s = time.perf_counter()
        try:
            async with asyncio.timeout(BURST_TIMEOUT_S):
                for number in range(BURST_MESSAGES):
                    writer.publish(bench.topic("x"), payload, qos=qos)
                    if number % 100 == 99:
                        await writer.drain()
                while received < BURST_MESSAGES:
                    await reader.receive()
                    received += 1
                    last_s = time.perf_counter()
        except TimeoutError:
            pass
        finally:
            swallowing.cancel()
        rate = received / max(last_s - started_s, 1e-6)
    return Finding(
        received == BURST_MESSAGES,
        f"{received} of {BURST_MESSAGES} delivered within {BURST_TIMEOUT_S:g} s, "
        f"{rate:,.0f} a second",
        received,
        "messages",
    )


async def burst_qos0(bench: Bench) -> Finding:
    """A burst at QoS 0 arrives whole."""
    return await _burst(bench, 0)


async def burst_qos1(bench: Bench) -> Finding:
    """A burst at QoS 1 arrives whole."""
    return await _burst(bench, 1)


async def _latency(bench: Bench, qos: int) -> Finding:
    times_ms: list[float] = []
    async with bench.client("a") as near, bench.client("b") as far:
        await near.subscribe((bench.topic("pong"), qos))
        await far.subscribe((bench.topic("ping"), qos))

        async def echo() -> None:
            while True:
                message, _ = await far.receive()
                far.publish(bench.topic("pong"), message.payload, qos=qos)

        echoing = asyncio.create_task(echo())
        try:
            end_s = time.perf_counter() + MAX_LATENCY_TIME_S
            while len(times_ms) < ROUND_TRIPS and time.perf_counter() < end_s:
                started_s = time.perf_counter()
                near.publish(bench.topic("ping"), bytes(300), qos=qos)
                await near.receive()
                times_ms.append((time.perf_counter() - started_s) * 1000)
        finally:
            echoing.cancel()
    middle_ms = statistics.median(times_ms)
    detail = f"{middle_ms:.2f} ms there and back (median of {len(times_ms)})"
    limit_ms = SLOW_ACKNOWLEDGED_MS if qos else SLOW_ROUND_TRIP_MS
    if middle_ms > limit_ms:
        detail += (
            "; over a network that may be the distance, on one machine set_tcp_nodelay is missing"
        )
    return Finding(middle_ms <= limit_ms, detail, round(middle_ms, 3), "ms")


async def latency_qos0(bench: Bench) -> Finding:
    """A round trip at QoS 0 is fast."""
    return await _latency(bench, 0)


async def latency_qos1(bench: Bench) -> Finding:
    """A round trip at QoS 1 waits for no delayed acknowledgement."""
    return await _latency(bench, 1)
