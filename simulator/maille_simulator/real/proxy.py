"""A TCP proxy in front of a broker that makes one node's network worse.

A lost packet is a stall, as with TCP; a partition lets nothing through and closes nothing; a flap
resets every connection. What is sent twice are whole QoS 0 publishes towards the node.
"""

import asyncio
import contextlib
from collections import Counter, deque
from random import Random

from maille_simulator.scenario.values import LinkQuality

RETRANSMIT_S = 0.22
MOST_RETRANSMITS = 15
"""Where everything is lost, time still has to pass; TCP gives up after as many."""

CHUNK_BYTES = 16 * 1024
LONG_QUEUE_BYTES = 1 << 20
"""So much may wait in the proxy; then the sender has to."""

_MOST_TOPICS = 64
_PUBLISH_QOS_0 = 0x30
_TYPE_AND_QOS = 0xF6


class FaultProxy:
    """One listener on loopback; all its connections share one quality.

    Args:
        target_port: the broker's, on loopback.
        random: decides what is lost.
    """

    def __init__(self, target_port: int, random: Random) -> None:
        self.quality = LinkQuality()
        self.port = 0
        self.bytes_by_topic: Counter[str] = Counter()
        """Payload of the publishes that came, by kind of topic."""
        self._target_port = target_port
        self._random = random
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End every connection and the listener."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for pair in list(self._pairs):
            pair.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def cut(self) -> None:
        """Let nothing through, and close nothing."""
        self._open.clear()

    def heal(self) -> None:
        """Let everything through again."""
        self._open.set()

    def reset(self) -> None:
        """Break every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._pairs.add(task)
            task.add_done_callback(self._pairs.discard)
        self._writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            from_broker, there = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(there)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, there, towards_node=False))
                group.create_task(self._pass(from_broker, writer, towards_node=True))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one end is gone, or the proxy ends: this is its outermost task
        finally:
            for one in (writer, there):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, towards_node: bool
    ) -> None:
        """Hand on what comes, later and in order; raises when one end closes."""
        waiting: deque[tuple[float, bytes]] = deque()
        came = asyncio.Event()
        room = asyncio.Event()
        room.set()
        splitter = Publishes()
        counter = TopicCounter(self.bytes_by_topic)

        async def hand_on() -> None:
            loop = asyncio.get_running_loop()
            while True:
                while not waiting:
                    came.clear()
                    await came.wait()
                at_s, data = waiting[0]
                await asyncio.sleep(max(0.0, at_s - loop.time()))
                await self._open.wait()
                waiting.popleft()
                if sum(len(item) for _, item in waiting) < LONG_QUEUE_BYTES:
                    room.set()
                rate = self.quality.bytes_per_s
                if rate:
                    await asyncio.sleep(len(data) / rate)
                writer.write(data)
                await writer.drain()

        handing = asyncio.create_task(hand_on())
        try:
            last_s = 0.0
            while not handing.done():
                await room.wait()
                data = await reader.read(CHUNK_BYTES)
                if not data:
                    await self._finish(waiting)
                    raise ConnectionResetError("one end has closed")
                counter.count(data)
                if towards_node and self.quality.duplicate:
                    data = splitter.doubled(data, self.quality.duplicate, self._random)
                else:
                    data = splitter.rest() + data
                # What comes later does not overtake: it is one TCP stream.
                last_s = max(last_s, asyncio.get_running_loop().time() + self.delay_s())
                waiting.append((last_s, data))
                came.set()
                if sum(len(item) for _, item in waiting) >= LONG_QUEUE_BYTES:
                    room.clear()
            await handing
        finally:
            handing.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await handing

    async def _finish(self, waiting: deque[tuple[float, bytes]]) -> None:
        """Let what was sent before the end arrive."""
        while waiting and self._open.is_set():  # noqa: ASYNC110 - a moment, at a connection's end
            await asyncio.sleep(0.005)

    def delay_s(self) -> float:
        """How long the next bytes are on their way."""
        quality, random = self.quality, self._random
        delay_s = (quality.latency_ms + random.random() * quality.jitter_ms) / 1000
        for _ in range(MOST_RETRANSMITS):
            if random.random() >= quality.loss:
                break
            delay_s += RETRANSMIT_S
        return delay_s


class Publishes:
    """Finds whole MQTT packets in a stream and says some publishes twice.

    Begins in the middle of a stream only between two packets, as the proxy's connections do.
    """

    def __init__(self) -> None:
        self._kept = b""

    def rest(self) -> bytes:
        """What was held back of a packet that is not whole."""
        kept, self._kept = self._kept, b""
        return kept

    def doubled(self, data: bytes, share: float, random: Random) -> bytes:
        """The stream with some QoS 0 publishes twice; a half packet waits for its rest."""
        buffer = self._kept + data
        out = bytearray()
        begin = 0
        while (end := packet_end(buffer, begin)) is not None:
            packet = buffer[begin:end]
            out += packet
            if packet[0] & _TYPE_AND_QOS == _PUBLISH_QOS_0 and random.random() < share:
                out += packet
            begin = end
        self._kept = buffer[begin:]
        return bytes(out)


class TopicCounter:
    """Counts the bytes of publishes by the part of their topic that says what they are."""

    def __init__(self, found: Counter[str]) -> None:
        self._found = found
        self._kept = b""

    def count(self, data: bytes) -> None:
        """Take the next bytes of one direction of a connection."""
        buffer = self._kept + data if self._kept else data
        begin = 0
        while (end := packet_end(buffer, begin)) is not None:
            if buffer[begin] & 0xF0 == _PUBLISH_QOS_0:
                self._publish(buffer[begin:end])
            begin = end
        self._kept = buffer[begin:]

    def _publish(self, packet: bytes) -> None:
        position = 1
        while packet[position] & 0x80:
            position += 1
        length = int.from_bytes(packet[position + 1 : position + 3], "big")
        topic = packet[position + 3 : position + 3 + length].decode("utf-8", "replace")
        parts = topic.split("/", 5)
        name = parts[5] if len(parts) == 6 else "coordinator"
        self._found[name if len(self._found) < _MOST_TOPICS else "other"] += len(packet)


def packet_end(buffer: bytes, begin: int) -> int | None:
    """Where the MQTT packet that starts at `begin` ends; None if it is not whole yet."""
    length = shift = 0
    for position in range(begin + 1, min(begin + 5, len(buffer))):
        length |= (buffer[position] & 0x7F) << shift
        shift += 7
        if not buffer[position] & 0x80:
            end = position + 1 + length
            return end if end <= len(buffer) else None
    return None
