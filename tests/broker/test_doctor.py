"""What the probes find in each broker: a change in a broker's behaviour is seen here."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from broker_support import CREDENTIALS, KINDS, Station, scripted_broker, stations
from testcontainers.core.container import DockerContainer

from maille_broker import (
    BrokerConfigError,
    BrokerRefused,
    BrokerUnavailable,
    Endpoint,
    ProbeResult,
    Report,
    run_probes,
    start_broker,
)
from maille_broker.doctor import judge
from maille_broker.mosquitto import configuration, find_mosquitto
from maille_broker.probe_kit import Severity
from maille_broker.probes import PROBES
from maille_broker.running import free_port, try_login

pytestmark = pytest.mark.broker

Kind = Literal["mosquitto", "nats", "amqtt"]
# Depends on the disk's speed (nats writes QoS 1 through) or on timing inside amqtt.
UNPINNED = {"burst_qos1", "queued_flag", "redelivery"}
FAILS: dict[Kind, set[str]] = {
    "mosquitto": set(),
    "nats": {"size_1_mib"},
    "amqtt": {
        "wrong_password",
        "takeover_clean",
        "takeover_persistent",
        "will_silence",
        "qos_downgrade",
    },
}
VERDICTS = {"mosquitto": "good", "nats": "good", "amqtt": "usable"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(30)
def test_findings_of_each_broker(kind: Kind, tmp_path: Path) -> None:
    seen: list[ProbeResult] = []

    async def scenario() -> Report:
        async with await start_broker(
            kind, port=0, data_directory=tmp_path, credentials=CREDENTIALS
        ) as broker:
            return await run_probes(broker.endpoint, on_result=seen.append)

    report = asyncio.run(scenario())
    failed = {result.name for result in report.results if result.result == "fail"}
    details = [f"{result.name}: {result.detail}" for result in report.results]
    assert failed - UNPINNED == FAILS[kind], details
    assert not [result for result in report.results if result.result == "skip"]
    assert report.verdict == VERDICTS[kind], report.sentence
    assert report.elapsed_s < 10
    assert {result.name for result in seen} == {probe.name for probe in PROBES}
    assert CREDENTIALS["coordinator"] not in str(report.to_dict())
    if kind == "amqtt":
        assert "Keep it to this machine" in report.sentence


def test_missing_tcp_nodelay_is_found(tmp_path: Path) -> None:
    async def scenario() -> Report:
        with mosquitto_without_nodelay(tmp_path) as endpoint:
            async with asyncio.timeout(5):
                while True:
                    try:
                        await try_login(endpoint, "ready", timeout_s=1)
                        break
                    except BrokerUnavailable:
                        await asyncio.sleep(0.02)
            return await run_probes(endpoint)

    report = asyncio.run(scenario())
    slow = report.result("latency_qos1")
    assert slow.result == "fail"
    assert slow.value is not None
    assert slow.value > 30
    assert "set_tcp_nodelay" in slow.detail
    assert report.verdict == "usable"
    assert report.result("wrong_password").result == "skip"


@contextmanager
def mosquitto_without_nodelay(directory: Path) -> Iterator[Endpoint]:
    program = find_mosquitto()
    assert program is not None, "install mosquitto to run these tests"
    port = free_port("127.0.0.1")
    text = configuration(
        host="127.0.0.1", port=port, websocket_port=None, password_file=None, acl_file=None
    )
    path = directory / "slow.conf"
    path.write_text(text.replace("set_tcp_nodelay true", "set_tcp_nodelay false"))
    with subprocess.Popen([program, "-c", str(path)], stderr=subprocess.DEVNULL) as process:
        try:
            yield Endpoint("127.0.0.1", port)
        finally:
            process.terminate()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        async with await start_broker("mosquitto", port=0, data_directory=tmp_path) as broker:
            await run_probes(broker.endpoint)
            watcher = Station(broker.endpoint, "watcher", "#")
            async with stations(watcher):
                watcher.link.publish("end", b"")
                await watcher.until(lambda: "end" in watcher.topics())
                return watcher.topics()

    assert asyncio.run(scenario()) == ["end"]


def test_broker_that_cannot_be_reached_or_refuses(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x20\x02\x00\x05")
        await reader.read()

    async def scenario() -> None:
        with pytest.raises(BrokerUnavailable, match="cannot be examined"):
            await run_probes(Endpoint("127.0.0.1", free_port("127.0.0.1")))
        async with scripted_broker(refuse) as endpoint:
            with pytest.raises(BrokerRefused, match="user name and password"):
                await run_probes(endpoint)
        with pytest.raises(BrokerConfigError, match="at least 1 s"):
            await run_probes(Endpoint("127.0.0.1", 1), deadline_s=0.2)

    asyncio.run(scenario())


def result(name: str, outcome: Literal["pass", "fail", "skip"]) -> ProbeResult:
    probe = next(probe for probe in PROBES if probe.name == name)
    return ProbeResult(name, probe.meaning, probe.severity, outcome, "detail", None, "")


def test_verdict_counts_what_maille_needs() -> None:
    here, away = Endpoint("127.0.0.1", 1), Endpoint("broker.example", 1)
    passed = tuple(result(probe.name, "pass") for probe in PROBES)
    assert judge(here, passed)[0] == "good"
    for probe in PROBES:
        results = tuple(
            result(other.name, "fail" if other is probe else "pass") for other in PROBES
        )
        verdict, sentence = judge(here, results)
        wanted = {
            Severity.NEEDED: "unfit",
            Severity.MATTERS: "usable",
            Severity.INFORMATIVE: "good",
        }
        assert verdict == wanted[probe.severity]
        assert (probe.name in sentence) == (probe.severity is not Severity.INFORMATIVE)
        assert ("Keep it to this machine" in sentence) == probe.local_only
        assert ("Do not leave it open" in judge(away, results)[1]) == probe.local_only


def docker_answers() -> bool:
    program = shutil.which("docker")
    if program is None:
        return False
    command = (program, "version", "--format", "{{.Server.Version}}")
    return subprocess.run(command, capture_output=True, timeout=10).returncode == 0


@pytest.mark.timeout(240)
def test_findings_of_the_container_image() -> None:
    if not docker_answers():
        pytest.skip("no Docker engine answers: start one to examine eclipse-mosquitto")
    container = DockerContainer("eclipse-mosquitto:2").with_exposed_ports(1883)
    container.with_command("mosquitto -c /mosquitto-no-auth.conf")
    with container:
        endpoint = Endpoint(
            container.get_container_host_ip(), int(container.get_exposed_port(1883))
        )

        async def scenario() -> Report:
            async with asyncio.timeout(30):
                while True:
                    try:
                        await try_login(endpoint, "ready", timeout_s=2)
                        break
                    except BrokerUnavailable:
                        await asyncio.sleep(0.2)
            return await run_probes(endpoint)

        report = asyncio.run(scenario())
    failed = {r.name for r in report.results if r.result == "fail"}
    # The image's own configuration leaves TCP_NODELAY off and the short queue of mosquitto on.
    assert failed <= {"latency_qos1", "burst_qos0", "burst_qos1"}, failed
    assert report.verdict in {"good", "usable"}
