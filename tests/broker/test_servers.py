"""Links through real brokers that we started."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import aiomqtt
import psutil
import pytest
import uvloop
from broker_support import (
    CREDENTIALS,
    KINDS,
    Station,
    make_certificate,
    needs_openssl,
    outcome,
    stations,
)

from maille_broker import (
    BrokerConfigError,
    BrokerMissing,
    BrokerRefused,
    Certificate,
    Endpoint,
    Link,
    PortInUse,
    RunningBroker,
    Will,
    choose_kind,
    start_broker,
)
from maille_broker.access import check_credentials, parse_login
from maille_broker.nats import subjects
from maille_broker.running import free_port

pytestmark = pytest.mark.broker

Kind = Literal["mosquitto", "nats", "amqtt"]
each_kind = pytest.mark.parametrize("kind", KINDS)


async def start(
    kind: Kind,
    directory: Path,
    *,
    port: int = 0,
    websocket_port: int | None = None,
    credentials: dict[str, str] | None = None,
) -> RunningBroker:
    return await start_broker(
        kind,
        port=port,
        websocket_port=websocket_port,
        data_directory=directory,
        credentials=credentials,
    )


@each_kind
@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_messages_in_both_directions_and_a_clean_end(
    kind: Kind, runner: object, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with await start(kind, tmp_path) as broker:
            will = Will("t/will", b"lost")
            a = Station(broker.endpoint, "a", "t/#")
            b = Station(broker.endpoint, "b", "t/ping", will=will, qos=1)
            async with stations(a, b):
                payload = bytes(range(256)) * 192
                assert len(payload) == 48 * 1024
                assert a.link.publish("t/ping", payload, qos=1)
                assert await a.link.flush(5)
                await b.until_count(1)
                assert b.messages[0].payload == payload
                await b.link.close()
                a.messages.clear()
                a.link.publish("t/end", b"")
                await a.until_count(1)
                assert a.topics() == ["t/end"], "a clean end publishes no will"
                assert b.link.counters.drops == 0

    assert callable(runner)
    runner(scenario())


@each_kind
def test_will_comes_within_half_a_second_of_a_closed_socket(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with await start(kind, tmp_path) as broker:
            watcher = Station(broker.endpoint, "watcher", "t/+")
            dying = Station(broker.endpoint, "dying", will=Will("t/will", b"boot 1"))
            async with stations(watcher, dying):
                dying.link.set_will(b"boot 2")
                started_s = time.perf_counter()
                await dying.kill()
                await watcher.until_count(1)
                assert time.perf_counter() - started_s < 0.5
                assert watcher.messages[0].payload == b"boot 1"
                again = Station(broker.endpoint, "dying", will=Will("t/will", b"boot 1"))
                again.link.set_will(b"boot 2")
                async with stations(again):
                    await again.kill()
                    await watcher.until_count(2)
                    assert watcher.messages[1].payload == b"boot 2"

    asyncio.run(scenario())


@each_kind
def test_links_return_with_their_subscriptions_after_a_restart(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port("127.0.0.1")
        broker = await start(kind, tmp_path, port=port)
        a = Station(broker.endpoint, "a", "t/a")
        b = Station(broker.endpoint, "b", "t/b")
        async with stations(a, b):
            await broker.stop()
            await a.until(lambda: bool(a.downs))
            await b.until(lambda: bool(b.downs))
            assert not a.link.publish("t/b", b"into the void")
            assert a.link.counters.publishes_dropped == 1
            async with await start(kind, tmp_path, port=port):
                await a.until(lambda: a.link.is_up)
                await b.until(lambda: b.link.is_up)
                a.link.publish("t/b", b"back")
                await b.until_count(1)
                assert b.messages[0].payload == b"back"
                assert a.link.counters.connects == 2
                # The links leave before the broker does.
                await a.link.close()
                await b.link.close()

    asyncio.run(scenario())


@each_kind
def test_wrong_password_is_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with await start(kind, tmp_path, credentials=CREDENTIALS) as broker:
            for endpoint in (
                broker.endpoint.with_credentials("node", "word-nobody-may-see"),
                broker.endpoint.with_credentials("stranger", "word-nobody-may-see"),
                broker.endpoint.with_credentials(None, None),
            ):
                error = await outcome(Link(endpoint, "x", on_messages=lambda _: None), 5)
                assert isinstance(error, BrokerRefused)
                assert "password" in str(error)
                assert "word-nobody-may-see" not in str(error)

    asyncio.run(scenario())


@pytest.mark.parametrize(("kind", "qos"), [("mosquitto", 0), ("mosquitto", 1), ("nats", 0)])
def test_burst_of_5000_arrives_whole_and_in_order(kind: Kind, qos: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with await start(kind, tmp_path) as broker:
            reader = Station(broker.endpoint, "reader", "t/x", qos=qos)
            writer = Station(broker.endpoint, "writer")
            async with stations(reader, writer):
                for number in range(5000):
                    assert writer.link.publish("t/x", number.to_bytes(2, "big") * 150, qos=qos)
                assert await writer.link.flush(10)
                await reader.until_count(5000)
                numbers = [int.from_bytes(m.payload[:2], "big") for m in reader.messages]
                assert numbers == list(range(5000))
                assert reader.calls < 2500, "messages come in batches"

    asyncio.run(scenario())


def test_two_programs_with_one_id_back_off_instead_of_fighting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with await start("mosquitto", tmp_path) as broker:
            one, two = Station(broker.endpoint, "twin"), Station(broker.endpoint, "twin")
            async with stations(one), stations(two):
                await two.until(lambda: len(two.downs) >= 3, 15)
                # 0.1 s at most, doubling: three losses take longer than three first retries.
                assert one.link.counters.connects <= 6

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_each_login_keeps_to_its_topics(kind: Kind, tmp_path: Path) -> None:
    root = "maille/1/home"

    async def scenario() -> None:
        async with await start(kind, tmp_path, credentials=CREDENTIALS) as broker:

            def station(user: str, client_id: str, *filters: str) -> Station:
                endpoint = broker.endpoint.with_credentials(user, CREDENTIALS[user])
                return Station(endpoint, client_id, *filters)

            coordinator = station("coordinator", "coordinator", f"{root}/#")
            kitchen = station("node/kitchen", "kitchen", f"{root}/n/kitchen/dn/#", f"{root}/c/+")
            client = station("client", "laptop", f"{root}/u/laptop/dn/#")
            async with stations(coordinator, kitchen, client):
                kitchen.link.publish(f"{root}/n/cellar/up/res", b"forged")
                kitchen.link.publish(f"{root}/n/cellar/state", b"forged")
                kitchen.link.publish(f"{root}/c/coordinator", b"forged")
                kitchen.link.publish(f"{root}/u/laptop/dn/outcome", b"forged")
                kitchen.link.publish(f"{root}/n/kitchen/dn/task", b"forged")
                client.link.publish(f"{root}/c/coordinator", b"forged")
                client.link.publish(f"{root}/n/kitchen/dn/task", b"forged")
                kitchen.link.publish(f"{root}/n/kitchen/up/res", b"own", qos=1)
                client.link.publish(f"{root}/u/laptop/up/submit", b"own")
                await coordinator.until_count(2)
                coordinator.link.publish(f"{root}/n/kitchen/dn/task", b"work")
                coordinator.link.publish(f"{root}/c/coordinator", b"here", retain=True)
                coordinator.link.publish(f"{root}/u/laptop/dn/outcome", b"done")
                await kitchen.until_count(2)
                await client.until_count(1)
                everyone = coordinator.messages + kitchen.messages + client.messages
                assert b"forged" not in [message.payload for message in everyone]
                assert sorted(m.payload for m in kitchen.messages) == [b"here", b"work"]
            await assert_nothing_overheard(broker.endpoint)

    async def assert_nothing_overheard(endpoint: Endpoint) -> None:
        """A node cannot read another node's tasks: refused, or never delivered."""
        spy = Station(
            endpoint.with_credentials("node/kitchen", CREDENTIALS["node/kitchen"]),
            "kitchen",
            f"{root}/n/cellar/dn/#",
            f"{root}/c/+",
        )
        boss = Station(endpoint, "boss")
        async with stations(boss):
            refusal = ""
            try:
                async with stations(spy):
                    await spy.until_count(1)  # the retained coordinator message
                    boss.link.publish(f"{root}/n/cellar/dn/task", b"for the cellar")
                    assert await boss.link.flush(5)
                    boss.link.publish(f"{root}/c/coordinator", b"after")
                    await spy.until_count(2)
            except BrokerRefused as error:
                refusal = str(error)
            if kind == "nats":
                assert "refused the subscription to maille/1/home/n/cellar/dn/#" in refusal
            else:
                assert [m.payload for m in spy.messages] == [b"here", b"after"]

    asyncio.run(scenario())


def test_mosquitto_holds_a_shared_login_to_its_client_id(tmp_path: Path) -> None:
    root = "maille/1/home"

    async def scenario() -> None:
        async with await start("mosquitto", tmp_path, credentials=CREDENTIALS) as broker:
            coordinator = Station(broker.endpoint, "coordinator", f"{root}/n/+/up/#")
            node = Station(
                broker.endpoint.with_credentials("node", CREDENTIALS["node"]),
                "pc1",
                f"{root}/n/+/dn/#",
            )
            async with stations(coordinator, node):
                node.link.publish(f"{root}/n/pc2/up/res", b"forged")
                node.link.publish(f"{root}/n/pc1/up/res", b"own")
                await coordinator.until_count(1)
                assert [m.payload for m in coordinator.messages] == [b"own"]
                coordinator.link.publish(f"{root}/n/pc2/dn/task", b"for pc2")
                coordinator.link.publish(f"{root}/n/pc1/dn/task", b"for pc1")
                await node.until_count(1)
                assert [m.payload for m in node.messages] == [b"for pc1"]

    asyncio.run(scenario())


@each_kind
def test_port_in_use_is_named(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(PortInUse, match=rf"Port {port} .* choose another"):
                await start(kind, tmp_path, port=port)
            with pytest.raises(PortInUse, match=str(port)):
                await start(kind, tmp_path, websocket_port=port)

    asyncio.run(scenario())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "broker.example"])
def test_amqtt_stays_on_this_machine(host: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(BrokerConfigError, match=r"only for this machine.*mosquitto") as caught:
            await start_broker(
                "amqtt", host=host, port=0, data_directory=tmp_path, credentials=CREDENTIALS
            )
        assert "nats" in str(caught.value)

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_network_listener_needs_passwords(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(BrokerConfigError, match="needs passwords"):
            await start_broker(kind, host="0.0.0.0", port=0, data_directory=tmp_path)
        broker = await start_broker(
            kind, host="0.0.0.0", port=0, data_directory=tmp_path, credentials=CREDENTIALS
        )
        async with broker:
            assert broker.endpoint.host == "127.0.0.1"

    asyncio.run(scenario())


def readable_by_others(directory: Path) -> list[Path]:
    return [
        path
        for path in directory.iterdir()
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != 0o600
    ]


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_secrets_are_private_and_in_no_process_list(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with await start(kind, tmp_path, credentials=CREDENTIALS) as broker:
            assert broker.pid is not None
            arguments = " ".join(psutil.Process(broker.pid).cmdline())
            assert readable_by_others(tmp_path) == []
            for password in CREDENTIALS.values():
                assert password not in arguments
                assert password not in repr(broker.endpoint)

    asyncio.run(scenario())
    if kind == "mosquitto":
        stored = (tmp_path / "mosquitto.passwords").read_text()
        assert not any(password in stored for password in CREDENTIALS.values())


def test_program_that_dies_at_start_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho 'Error: the moon is full'\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    async def scenario() -> None:
        with pytest.raises(BrokerConfigError, match=r"status 3(.|\n)*the moon is full"):
            await start("mosquitto", tmp_path / "data")

    asyncio.run(scenario())


def test_missing_programs_say_how_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maille_broker.mosquitto.find_mosquitto", lambda: None)
    monkeypatch.setattr("maille_broker.launch.find_mosquitto", lambda: None)

    async def scenario() -> None:
        with pytest.raises(BrokerMissing, match="apt install mosquitto"):
            await start("mosquitto", tmp_path)

    asyncio.run(scenario())
    assert choose_kind("0.0.0.0") == "nats"
    monkeypatch.setattr("maille_broker.launch.find_nats_server", lambda: None)
    assert choose_kind("127.0.0.1") == "amqtt"
    with pytest.raises(BrokerMissing, match="pip install"):
        choose_kind("0.0.0.0")


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_broker_dies_with_its_parent(kind: Kind, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, pathlib\n"
        "from maille_broker import start_broker\n"
        "async def main():\n"
        f"    b = await start_broker({kind!r}, port=0, data_directory=pathlib.Path(sys.argv[1]))\n"
        "    print(b.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        broker = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    broker.wait(timeout=8)


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_end_of_the_program_is_reported_with_its_last_words(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        broker = await start(kind, tmp_path)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        assert "status -9" in await broker.wait_ended()
        await broker.stop()
        await broker.stop()

    asyncio.run(scenario())


@each_kind
def test_websocket_listener_speaks_mqtt(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with await start(kind, tmp_path, websocket_port=0) as broker:
            assert broker.websocket_url is not None
            address = broker.websocket_url.removeprefix("ws://").removesuffix("/mqtt")
            host, port = address.split(":")
            station = Station(broker.endpoint, "station", "t/x")
            async with (
                stations(station),
                aiomqtt.Client(
                    host, int(port), transport="websockets", websocket_path="/mqtt"
                ) as browser,
            ):
                await browser.publish("t/x", b"from a browser")
                await station.until_count(1)

    asyncio.run(scenario())


@each_kind
def test_understands_an_independent_client(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with await start(kind, tmp_path, credentials=CREDENTIALS) as broker:
            root = "maille/1/home"
            station = Station(broker.endpoint, "station", f"{root}/n/+/up/#", qos=1)
            other = aiomqtt.Client(
                broker.endpoint.host,
                broker.endpoint.port,
                username="coordinator",
                password=CREDENTIALS["coordinator"],
                identifier="other",
            )
            async with stations(station), other:
                await other.subscribe(f"{root}/n/x/dn/#", qos=1)
                await other.publish(f"{root}/n/x/up/res", b"there", qos=1)
                await station.until_count(1)
                station.link.publish(f"{root}/n/x/dn/task", b"back", qos=1)
                async for message in other.messages:
                    assert message.payload == b"back"
                    break
                assert await station.link.flush(5)

    asyncio.run(scenario())


@needs_openssl
@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_encrypted_listeners(kind: Kind, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    async def scenario() -> None:
        broker = await start_broker(
            kind,
            port=0,
            websocket_port=0,
            data_directory=tmp_path,
            credentials=CREDENTIALS,
            certificate=certificate,
        )
        async with broker:
            assert broker.endpoint.url.startswith("mqtts://coordinator@127.0.0.1:")
            assert broker.websocket_url is not None
            assert broker.websocket_url.startswith("wss://")
            station = Station(broker.endpoint, "station", "maille/1/home/#")
            async with stations(station):
                for number in range(200):
                    payload = number.to_bytes(2, "big") * 10_000
                    assert station.link.publish("maille/1/home/x", payload)
                await station.until_count(200)
            plain = Endpoint(broker.endpoint.host, broker.endpoint.port)
            error = await outcome(Link(plain, "x", on_messages=lambda _: None), 0.5)
            assert "No broker answered" in str(error)

    asyncio.run(scenario())


def test_certificate_files_are_checked(tmp_path: Path) -> None:
    nothing = Certificate(tmp_path / "a", tmp_path / "b", tmp_path / "c")

    async def scenario() -> None:
        with pytest.raises(BrokerConfigError, match="three PEM files"):
            await start_broker("nats", port=0, data_directory=tmp_path, certificate=nothing)
        with pytest.raises(BrokerConfigError, match="without TLS"):
            await start_broker("amqtt", port=0, data_directory=tmp_path, certificate=nothing)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "username", ["", "root", "node/", "node/Küche", "coordinator/x", "node/a/b"]
)
def test_other_user_names_are_refused(username: str) -> None:
    with pytest.raises(BrokerConfigError, match="no user name of a mesh"):
        parse_login(username)


def test_credentials_are_checked() -> None:
    with pytest.raises(BrokerConfigError, match="no login named coordinator"):
        check_credentials({"node": "long enough"}, "home")
    with pytest.raises(BrokerConfigError, match="8 to 256") as caught:
        check_credentials({"coordinator": "short"}, "home")
    assert "short" not in str(caught.value)
    with pytest.raises(BrokerConfigError, match="printable"):
        check_credentials({"coordinator": "line\nbreak: yes"}, "home")
    with pytest.raises(BrokerConfigError, match="no mesh name"):
        check_credentials(CREDENTIALS, "home/#")


def test_filters_become_subjects() -> None:
    assert subjects("a/+/b") == ["a.*.b"]
    assert subjects("a/b/#") == ["a.b.>", "a.b"]
