"""The link against scripted brokers: what no well-behaved broker does."""

import asyncio
import random
import ssl
import time
from pathlib import Path

import pytest
from broker_support import (
    Station,
    accept_login,
    make_certificate,
    needs_openssl,
    outcome,
    read_packet,
    scripted_broker,
    stations,
)

from maille_broker import (
    BrokerConfigError,
    BrokerRefused,
    BrokerUnavailable,
    Endpoint,
    Link,
    Message,
    packets,
    parse_url,
)
from maille_broker.link import retry_delay_s
from maille_broker.running import free_port


def make_link(endpoint: Endpoint) -> Link:
    return Link(endpoint, "id", subscriptions=[("a/#", 0)], on_messages=lambda _: None)


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(1024):
        pass


def test_never_connected_names_the_address_and_ends_in_time() -> None:
    endpoint = Endpoint("127.0.0.1", free_port("127.0.0.1"))
    link = make_link(endpoint)
    started_s = time.perf_counter()
    error = asyncio.run(outcome(link, 0.4))
    assert isinstance(error, BrokerUnavailable)
    assert f"127.0.0.1:{endpoint.port}" in str(error)
    assert time.perf_counter() - started_s < 2
    assert link.counters.failed_attempts >= 2


def test_login_without_an_answer_is_given_up() -> None:
    async def scenario() -> None:
        async with scripted_broker(silence) as endpoint:
            error = await outcome(make_link(endpoint), 0.3)
        assert isinstance(error, BrokerUnavailable)
        assert "no answer" in str(error)

    asyncio.run(scenario())


@pytest.mark.parametrize("code", [1, 2, 4, 5, 77])
def test_refused_login_is_raised_at_once(code: int) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_packet(reader)
        writer.write(bytes([0x20, 2, 0, code]))
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(refuse) as endpoint:
            link = make_link(endpoint)
            error = await outcome(link, 5)
        assert isinstance(error, BrokerRefused)
        assert link.counters.refused == 1

    asyncio.run(scenario())


def test_broker_that_is_not_ready_is_tried_again() -> None:
    async def not_ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_packet(reader)
        writer.write(b"\x20\x02\x00\x03")
        await reader.read()

    async def ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(not_ready, ready) as endpoint:
            station = Station(endpoint, "id", "a/#")
            async with stations(station):
                assert station.link.counters.failed_attempts == 1

    asyncio.run(scenario())


def test_login_refused_after_it_worked_is_retried_and_counted() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_packet(reader)
        writer.write(b"\x20\x02\x00\x05")
        await reader.read()

    async def again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(once, refuse, again) as endpoint:
            station = Station(endpoint, "id", "a/#")
            async with stations(station):
                await station.until(lambda: station.link.counters.connects == 2)
                assert station.link.counters.refused == 1
                assert station.link.counters.drops == 1
                assert len(station.downs) == 1

    asyncio.run(scenario())


def test_refused_subscription_is_an_error_that_names_the_filter() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer, codes=(0x80,))
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(refuse) as endpoint:
            error = await outcome(make_link(endpoint), 5)
        assert isinstance(error, BrokerRefused)
        assert "a/#" in str(error)

    asyncio.run(scenario())


def test_messages_before_the_confirmation_come_after_on_up() -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_packet(reader)
        writer.write(b"\x20\x02\x00\x00" + packets.encode_publish("a/1", b"early"))
        await writer.drain()
        subscribe = await read_packet(reader)
        writer.write(b"\x90\x03" + subscribe[:2] + b"\x00" + packets.encode_publish("a/2", b"late"))
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(early) as endpoint:
            events: list[str] = []

            def take(messages: list[Message]) -> None:
                events.extend(message.topic for message in messages)
                done.set()

            done = asyncio.Event()
            link = Link(
                endpoint,
                "id",
                subscriptions=[("a/#", 0)],
                on_messages=take,
                on_up=lambda: events.append("up"),
            )
            task = asyncio.create_task(link.run())
            await done.wait()
            await link.close()
            await task
        assert events == ["up", "a/1", "a/2"]

    asyncio.run(scenario())


def test_silent_broker_is_noticed_although_publishes_succeed() -> None:
    async def freeze(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)
        await silence(reader, writer)

    async def scenario() -> None:
        async with scripted_broker(freeze) as endpoint:
            station = Station(endpoint, "id", "a/#", keepalive_s=0.3)
            async with stations(station):
                assert station.link.publish("a/x", b"")
                await station.until(lambda: bool(station.downs), 3)
        assert "silent" in station.downs[0]

    asyncio.run(scenario())


def test_who_only_listens_says_that_it_is_there() -> None:
    """A broker drops a client that sends nothing, however much it receives."""
    pinged = asyncio.Event()

    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)

        async def talk() -> None:
            while True:
                writer.write(packets.encode_publish("a/b", b"heartbeat"))
                await asyncio.sleep(0.02)

        talking = asyncio.create_task(talk())
        while (first := await reader.read(1024)) and first != packets.PINGREQ:
            pass
        pinged.set()
        talking.cancel()
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(chatter) as endpoint:
            station = Station(endpoint, "id", "a/#", keepalive_s=0.4)
            async with stations(station):
                await asyncio.wait_for(pinged.wait(), 3)
                assert not station.downs

    asyncio.run(scenario())


@pytest.mark.parametrize("noise", [b"\xf0\x00", b"\x30\xff\xff\xff\xff\x7f", b"\x36\x03\x00\x01a"])
def test_noise_ends_the_connection_and_is_counted(noise: bytes) -> None:
    async def noisy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)
        writer.write(packets.encode_publish("a/b", b"good") + noise)
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(noisy) as endpoint:
            station = Station(endpoint, "id", "a/#")
            async with stations(station):
                await station.until(lambda: bool(station.downs))
                assert station.link.counters.malformed >= 1
                assert station.topics()[0] == "a/b"

    asyncio.run(scenario())


def test_oversized_message_is_skipped_and_the_next_delivered() -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)
        writer.write(packets.encode_publish("a/big", bytes(2_000_000)))
        writer.write(packets.encode_publish("a/small", b"x"))
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(send) as endpoint:
            station = Station(endpoint, "id", "a/#")
            async with stations(station):
                await station.until_count(1)
                assert station.topics() == ["a/small"]
                assert station.link.counters.oversized == 1

    asyncio.run(scenario())


def test_broker_that_does_not_read_fills_a_bounded_queue() -> None:
    release = asyncio.Event()

    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)
        await release.wait()

    async def scenario() -> None:
        async with scripted_broker(stuck) as endpoint:
            station = Station(endpoint, "id", "a/#")
            async with stations(station):
                payload = bytes(48 * 1024)
                sent = 0
                while station.link.publish("a/x", payload):
                    sent += 1
                    await asyncio.sleep(0)
                assert sent * len(payload) < 64 * 1024 * 1024
                assert station.link.counters.publishes_dropped == 1
                assert not await station.link.flush(0.05)
                release.set()

    asyncio.run(scenario())


def test_own_misuse_raises() -> None:
    async def scenario() -> None:
        link = make_link(Endpoint("127.0.0.1", 1))
        with pytest.raises(ValueError, match="chunks"):
            link.publish("a", bytes(48 * 1024 + 1))
        for topic in ("", "a/+", "a/#", "a\0"):
            with pytest.raises(ValueError, match="cannot be published to"):
                link.publish(topic, b"")
        with pytest.raises(ValueError, match="QoS 2"):
            link.publish("a", b"", qos=2)
        with pytest.raises(ValueError, match="without a will"):
            link.set_will(b"x")
        assert not link.publish("a", b"x")
        assert link.counters.publishes_dropped == 1

    asyncio.run(scenario())


def test_handler_errors_are_counted_and_the_link_lives_on() -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)
        for number in range(3):
            writer.write(packets.encode_publish(f"a/{number}", b""))
            await writer.drain()
            await asyncio.sleep(0.02)
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(send) as endpoint:
            got: list[str] = []
            done = asyncio.Event()

            def take(messages: list[Message]) -> None:
                got.extend(message.topic for message in messages)
                if got[-1] == "a/2":
                    done.set()
                raise RuntimeError("a bug in the handler")

            link = Link(endpoint, "id", subscriptions=[("a/#", 0)], on_messages=take)
            task = asyncio.create_task(link.run())
            await done.wait()
            await asyncio.sleep(0)
            assert link.counters.handler_errors >= 1
            assert link.counters.drops == 0
            await link.close()
            await task

    asyncio.run(scenario())


def test_retries_are_fast_at_first_and_never_over_five_seconds() -> None:
    randomness = random.Random(1)
    first = [retry_delay_s(0, randomness) for _ in range(200)]
    assert 0.05 <= min(first) < 0.06
    assert 0.09 < max(first) <= 0.1
    # A broker that comes back within seconds is found within one of them.
    short = [retry_delay_s(attempt, randomness) for attempt in range(15)]
    assert max(short) <= 0.8
    assert sum(short) > 5
    late = [retry_delay_s(attempt, randomness) for attempt in range(18, 1000)]
    assert min(late) > 2
    assert max(late) == 5.0


def test_closing_before_and_while_connecting() -> None:
    async def scenario() -> None:
        link = make_link(Endpoint("127.0.0.1", 1))
        await link.close()
        await link.run()
        async with scripted_broker(silence) as endpoint:
            link = make_link(endpoint)
            task = asyncio.create_task(link.run())
            await asyncio.sleep(0)
            await link.close()
            await task
            assert not link.publish("a", b"")

    asyncio.run(scenario())


def test_running_twice_is_misuse() -> None:
    async def scenario() -> None:
        async with scripted_broker(silence) as endpoint:
            link = make_link(endpoint)
            task = asyncio.create_task(link.run())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="runs already"):
                await link.run()
            await link.close()
            await task

    asyncio.run(scenario())


@needs_openssl
def test_certificates_are_checked(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate_file, certificate.key_file)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_login(reader, writer)
        writer.write(packets.encode_publish("a/b", b"over TLS"))
        await reader.read()

    async def scenario() -> None:
        async with scripted_broker(echo, tls=context) as endpoint:
            url = f"mqtts://localhost:{endpoint.port}"
            with pytest.raises(BrokerConfigError, match="not trusted"):
                await make_link(parse_url(url)).run()
            with pytest.raises(BrokerConfigError, match=r"nowhere\.pem"):
                await make_link(parse_url(url, ca_file="/nowhere.pem")).run()
            station = Station(parse_url(url, ca_file=certificate.ca_file), "id", "a/#")
            async with stations(station):
                await station.until_count(1)
                assert station.messages[0].payload == b"over TLS"

    asyncio.run(scenario())
