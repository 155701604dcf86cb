"""Probes of logins, retained messages, sessions and wills."""

import asyncio
import secrets
import time

from maille_broker.packets import Will
from maille_broker.probe_client import ProbeClient
from maille_broker.probe_kit import Bench, Finding

QUIET_S = 0.4
SILENT_KEEPALIVE_S = 1
SILENCE_TIMEOUT_S = 7.5


async def _nothing_comes(client: ProbeClient, for_s: float = QUIET_S) -> bool:
    try:
        async with asyncio.timeout(for_s):
            await client.receive()
    except TimeoutError:
        return True
    return False


async def wrong_password(bench: Bench) -> Finding:
    """A wrong password is refused and disturbs nobody."""
    if bench.endpoint.password is None:
        return Finding(None, "this broker was reached without a login")
    async with bench.client("b") as writer:
        for clean in (True, False):
            async with bench.client("a") as victim:
                await victim.subscribe((bench.topic("x"), 0))
                stranger = bench.new_client("a")
                try:
                    answer = await stranger.connect(clean=clean, password=secrets.token_hex(12))
                except ConnectionError:
                    pass
                else:
                    if answer.code == 0:
                        await stranger.disconnect()
                        return Finding(False, "any password is let in")
                await stranger.drop()
                writer.publish(bench.topic("x"), b"still there")
                try:
                    async with asyncio.timeout(1.0):
                        await victim.receive()
                except (TimeoutError, ConnectionError):
                    return Finding(False, "a refused login disturbs the device of that name")
    return Finding(True, "refused, and nobody else notices")


async def retained_leak(bench: Bench) -> Finding:
    """A client that subscribed to nothing gets nothing."""
    async with bench.client("b") as writer:
        await writer.publish_and_wait(bench.topic("secret"), b"x", retain=True)
        try:
            async with bench.client("a") as reader, bench.client("c") as stranger:
                await reader.subscribe((bench.topic("#"), 0))
                await reader.receive()
                quiet = await _nothing_comes(stranger)
                async with bench.client("d") as later:
                    quiet = quiet and await _nothing_comes(later)
        finally:
            await writer.publish_and_wait(bench.topic("secret"), b"", retain=True)
    if quiet:
        return Finding(True, "a client gets only what it subscribed to")
    return Finding(False, "a client that subscribed to nothing gets messages of others")


async def retained(bench: Bench) -> Finding:
    """A retained message reaches a later subscriber, marked."""
    async with bench.client("b") as writer:
        await writer.publish_and_wait(bench.topic("state"), b"on", retain=True)
        try:
            async with bench.client("a") as reader:
                await reader.subscribe((bench.topic("+"), 1))
                message, _ = await reader.receive()
        finally:
            await writer.publish_and_wait(bench.topic("state"), b"", retain=True)
    good = message.retain and message.payload == b"on"
    return Finding(good, "kept and marked as retained" if good else "came without its mark")


async def qos_downgrade(bench: Bench) -> Finding:
    """A message is delivered at the lower of the two qualities of service."""
    async with bench.client("a") as reader, bench.client("b") as writer:
        await reader.subscribe((bench.topic("x"), 1))
        writer.publish(bench.topic("x"), b"x", qos=0)
        _, qos = await reader.receive()
    return Finding(qos == 0, f"a QoS 0 message came at QoS {qos}", qos)


async def queued_flag(bench: Bench) -> Finding:
    """A message queued for an absent client comes, and not marked as retained."""
    try:
        sleeper = bench.new_client("a")
        await sleeper.connect(clean=False)
        await sleeper.subscribe((bench.topic("x"), 1))
        await sleeper.disconnect()
        async with bench.client("b") as writer:
            await writer.publish_and_wait(bench.topic("x"), b"x")
        async with bench.new_client("a") as awake:
            await awake.connect(clean=False)
            async with asyncio.timeout(2.0):
                message, _ = await awake.receive()
    except TimeoutError:
        return Finding(False, "a message for a client that was away was lost")
    finally:
        await bench.forget("a")
    if message.retain:
        return Finding(False, "a message for a client that was away came marked as retained")
    return Finding(True, "kept for a client that was away")


async def redelivery(bench: Bench) -> Finding:
    """What was not acknowledged is sent again on the next connection."""
    try:
        first = bench.new_client("a")
        first.acknowledges = False
        await first.connect(clean=False)
        await first.subscribe((bench.topic("x"), 1))
        async with bench.client("b") as writer:
            await writer.publish_and_wait(bench.topic("x"), b"x")
        await first.receive()
        await first.drop()
        async with bench.new_client("a") as second:
            await second.connect(clean=False)
            async with asyncio.timeout(2.0):
                await second.receive()
    except TimeoutError:
        return Finding(False, "not sent again within 2 s")
    finally:
        await bench.forget("a")
    return Finding(True, "sent again after a reconnect")


async def _takeover(bench: Bench, *, clean: bool) -> Finding:
    old = bench.new_client("a")
    try:
        await old.connect(clean=clean)
        await old.subscribe((bench.topic("x"), 0))
        async with bench.new_client("a") as new, bench.client("b") as writer:
            await new.connect(clean=clean)
            try:
                async with asyncio.timeout(1.0):
                    await old.closed_by_broker()
            except TimeoutError:
                return Finding(False, "the old connection stays open beside the new one")
            await new.subscribe((bench.topic("x"), 0))
            writer.publish(bench.topic("x"), b"x")
            try:
                async with asyncio.timeout(1.0):
                    await new.receive()
            except (TimeoutError, ConnectionError):
                return Finding(False, "the new connection receives nothing")
    finally:
        await old.drop()
        if not clean:
            await bench.forget("a")
    return Finding(True, "the new connection replaces the old one")


async def takeover_clean(bench: Bench) -> Finding:
    """A second connection with a clean session ends the first."""
    return await _takeover(bench, clean=True)


async def takeover_persistent(bench: Bench) -> Finding:
    """A second connection with a kept session ends the first."""
    return await _takeover(bench, clean=False)


async def will_socket(bench: Bench) -> Finding:
    """A socket that closes without DISCONNECT gives the will at once."""
    async with bench.client("a") as reader:
        await reader.subscribe((bench.topic("will"), 0))
        dying = bench.new_client("b")
        await dying.connect(will=Will(bench.topic("will"), b"lost"))
        started_s = time.perf_counter()
        await dying.drop()
        try:
            async with asyncio.timeout(2.0):
                await reader.receive()
        except TimeoutError:
            return Finding(False, "no will within 2 s of a closed socket")
        elapsed_ms = (time.perf_counter() - started_s) * 1000
    return Finding(elapsed_ms <= 500, f"after {elapsed_ms:.0f} ms", round(elapsed_ms, 1), "ms")


async def will_silence(bench: Bench) -> Finding:
    """A client that falls silent gives the will."""
    async with bench.client("a") as reader:
        await reader.subscribe((bench.topic("will"), 0))
        silent = bench.new_client("b")
        started_s = time.perf_counter()
        await silent.connect(
            keepalive_s=SILENT_KEEPALIVE_S, will=Will(bench.topic("will"), b"lost")
        )
        try:
            async with asyncio.timeout(SILENCE_TIMEOUT_S):
                await reader.receive()
        except TimeoutError:
            return Finding(
                False,
                f"silent for {SILENCE_TIMEOUT_S:.0f} s at a keep-alive of "
                f"{SILENT_KEEPALIVE_S} s, still no will",
            )
        finally:
            await silent.drop()
        elapsed_s = time.perf_counter() - started_s
    return Finding(
        True,
        f"after {elapsed_s:.1f} s at a keep-alive of {SILENT_KEEPALIVE_S} s",
        round(elapsed_s, 2),
        "s",
    )
