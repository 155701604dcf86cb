"""An unfriendly program on the broker, while real tasks run: nothing dies and no task is lost.

It publishes noise on every topic of the protocol: random bytes, damaged copies of what it overhears,
right envelopes with wrong bodies, right messages on wrong topics, messages of devices that do not
exist, much that is too large, all of it also retained. What it does not do is speak correctly in the
name of another device: that is for the broker's access rules to prevent (test_bad_input_mesh.py).
"""

import contextlib
import random
import signal
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import cbor2
import numpy as np
import psutil
import pytest
from command import maille
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_models import write_sum_model
from real_mesh import RealMesh, eventually, real_mesh
from slow_model import write_slow_model
from stranger import Stranger

import maille as maille_api
from maille_broker import parse_url
from maille_protocol import (
    CoordinatorState,
    MessageType,
    NodeInfo,
    UsageError,
    WireError,
    topics,
    unpack,
)
from maille_protocol.limits import MAX_PUBLISH_BYTES
from maille_protocol.topics import TOPICS, Party, Topic

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(120)]

MESH = "home"
EXAMPLES = 500
SIZES = (MAX_PUBLISH_BYTES, MAX_PUBLISH_BYTES + 1, 49 * 1024, 200_000, 1024 * 1024)
ROOM_BYTES = 64 * 1024 * 1024
GHOSTS = ("ghost-1", "ghost-2", "0", "x" * 32)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMesh]:
    """A mesh of its own: what is retained on its broker stays there."""
    directory = tmp_path_factory.mktemp("hostile")
    with real_mesh(directory, "mosquitto") as running:
        with running.client() as client:
            client.models.add(write_slow_model(directory / "slow.onnx"), name="slow")
            client.models.add(write_sum_model(directory / "sum.onnx"), name="sum")
        yield running


@pytest.fixture(scope="module")
def stranger(mesh: RealMesh) -> Iterator[Stranger]:
    with Stranger(parse_url(mesh.broker_url), "stranger", [f"maille/1/{MESH}/#"]) as found:
        yield found


# --- tasks that run meanwhile --------------------------------------------------------------------


@dataclass
class Work:
    """What a client asks and is answered, again and again."""

    client: str = ""
    answered: int = 0
    client_faults: int = 0
    failure: BaseException | None = None
    stop: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def tasks_running(mesh: RealMesh) -> Iterator[Work]:
    """A client that maps and runs until the block ends; then every answer must be right."""
    work = Work()
    started = threading.Event()

    def questions() -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
        number = 0
        while not work.stop.is_set():
            yield np.array([number], np.float32)
            number += 1

    def run() -> None:
        try:
            with mesh.client() as client:
                work.client = client.asynchronous.dispatcher.session.client
                for expected, found in enumerate(client.map("slow", questions())):
                    assert float(found["answer"][0]) == 2.0 * expected
                    work.answered += 1
                    started.set()
                work.client_faults = client.asynchronous.dispatcher.session.wire_errors
        except BaseException as error:  # noqa: BLE001 - shown by the test's thread
            work.failure = error
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(20)
        if work.failure is None:
            yield work
    finally:
        work.stop.set()
        thread.join(60)
    assert not thread.is_alive()
    if work.failure is not None:
        raise work.failure


# --- what is published ---------------------------------------------------------------------------

plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(0, 2**64 - 1),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.binary(max_size=40),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(st.integers(0, 5), inner, max_size=3),
        st.builds(cbor2.CBORTag, st.sampled_from([0, 2, 28, 29, 40, 64, 258, 55799]), inner),
    ),
    max_leaves=12,
)
codes = st.one_of(st.sampled_from([int(code) for code in MessageType]), st.integers(0, 300))


@st.composite
def enveloped(draw: st.DrawFn) -> bytes:
    """An envelope as it should be, around a body that is not."""
    numbers = st.integers(0, 2**64 - 1)
    items = [
        draw(st.sampled_from([1, 1, 1, 0, 2])),
        *(draw(codes), draw(numbers), draw(numbers), draw(numbers)),
        draw(plain),
    ]
    return cbor2.dumps(items[: draw(st.integers(4, 6))] if draw(st.booleans()) else items)


hostile = st.sampled_from(
    [
        b"",
        b"\x9b" + b"\xff" * 8,  # an array of 2^64 - 1 elements
        b"\x5b" + b"\xff" * 8,  # a text of as many bytes
        b"\x81" * 40_000,  # as deep as it is long
        b"\xd8\x1c\x81\xd8\x1d\x00",  # a list that holds itself
        b"\x86\x01\x04\x01\x01\x01\x9f" + b"\x00" * 100,  # without an end
        b"\xbf" + b"\x00" * 1000,
        b"\xc2\x59\x40\x00" + b"\xff" * 0x4000,  # a number of 16 KiB
        b"\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        cbor2.dumps([1, 4, 1, 1, 1, [[b"i" * 16, 1, 1, 0, 0, b"", 0, 0]] * 1500]),
        cbor2.dumps(
            [1, 32, 1, 1, 0, [1, "slow", 0, 5, 0, 0, 0, None, [[b"t" * 16, b"\x80"]] * 900]]
        ),
        cbor2.dumps([1, 6, 1, 1, 0, [50, "\x1b[2J\x07\r\n" * 200]]),
    ]
)


@dataclass(frozen=True)
class Damage:
    """What is done to a message that was overheard."""

    which: int
    cut: int
    flips: tuple[tuple[int, int], ...]
    splice: int

    def of(self, overheard: list[bytes]) -> bytes:
        whole = overheard[self.which % len(overheard)]
        data = bytearray(whole[: len(whole) - self.cut % max(1, len(whole))])
        for place, value in self.flips:
            if data:
                data[place % len(data)] ^= value
        other = overheard[self.splice % len(overheard)]
        return bytes(data) + (
            other[self.splice % max(1, len(other)) :] if self.splice % 3 == 0 else b""
        )


numbers = st.integers(0, 2**32)
damage = st.builds(
    Damage,
    numbers,
    st.one_of(st.just(0), numbers),
    st.lists(st.tuples(numbers, st.integers(1, 255)), max_size=4).map(tuple),
    numbers,
)
filler = st.builds(
    lambda size, byte: bytes([byte]) * size, st.sampled_from(SIZES), st.integers(0, 255)
)
payloads: st.SearchStrategy[bytes | Damage] = st.one_of(
    st.binary(max_size=200), enveloped(), plain.map(cbor2.dumps), hostile, damage, damage, filler
)


class Attack:
    """Publishes, and keeps to what the module's docstring says."""

    def __init__(self, mesh: RealMesh, stranger: Stranger, work: Work) -> None:
        self.published: dict[str, int] = {}
        self.retained: set[str] = set()
        self.malformed = 0
        self._stranger = stranger
        self._epoch = int(mesh.metric("epoch"))
        self._ids = {
            Party.NODE: ("n1", "n2", *GHOSTS),
            Party.COORDINATOR: ("coordinator", *GHOSTS),
            Party.CLIENT: (work.client, *GHOSTS),
        }
        self._overheard = [heard.payload for heard in list(stranger.heard)[-2000:] if heard.payload]
        assert len(self._overheard) > 20

    def publish(self, topic: Topic, choice: int, payload: bytes | Damage, *, retain: bool) -> None:
        ids = self._ids[topic.party]
        identity = ids[choice % len(ids)]
        data = payload.of(self._overheard) if isinstance(payload, Damage) else payload
        if len(data) > 2 * 1024 * 1024 or self._impersonates(topic, identity, data):
            return
        where = topic.on(MESH, identity)
        self._stranger.publish(where, data, retain=retain)
        self.published[topic.suffix] = self.published.get(topic.suffix, 0) + 1
        if retain:
            self.retained.add(where)

    def _impersonates(self, topic: Topic, identity: str, data: bytes) -> bool:
        real = identity not in GHOSTS
        if not data:
            # It would clear what another device has left on the broker.
            return real
        try:
            envelope = unpack(data, frozenset({topic.message}))
        except WireError:
            self.malformed += 1
            return False
        message = envelope.message
        claims_to_lead = isinstance(message, CoordinatorState) and envelope.epoch >= self._epoch
        joins_as_a_node = isinstance(message, NodeInfo) and message.slots > 0
        return real or claims_to_lead or joins_as_a_node

    def clean(self) -> None:
        """Take back what was left on the broker."""
        for where in self.retained:
            self._stranger.publish(where, b"", retain=True)


def resident_bytes(mesh: RealMesh) -> dict[str, int]:
    return {
        name: psutil.Process(process.pid).memory_info().rss
        for name, process in mesh.processes.items()
    }


def check_unharmed(mesh: RealMesh, pids: dict[str, int]) -> None:
    assert {name: process.pid for name, process in mesh.processes.items()} == pids
    for name, process in mesh.processes.items():
        assert process.poll() is None, mesh.log(name)[-2000:]
        assert "Traceback" not in mesh.log(name), mesh.log(name)[-4000:]
        # Whatever comes, a disk is not filled with lines about it.
        assert len(mesh.log(name)) < 500_000
    assert mesh.metric("mqtt_handler_errors_total") == 0
    assert mesh.metric("mqtt_drops_total") == 0
    for node in ("n1", "n2"):
        mesh.wait_for_state(node, "ready")


# --- the tests -----------------------------------------------------------------------------------


def test_noise_on_every_topic(mesh: RealMesh, stranger: Stranger) -> None:
    pids = {name: process.pid for name, process in mesh.processes.items()}
    with tasks_running(mesh) as work:
        before = resident_bytes(mesh)
        faults = mesh.metric("wire_faults_total")
        oversized = mesh.metric("mqtt_oversized_total")
        attack = Attack(mesh, stranger, work)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(TOPICS), st.integers(0, 20), payloads, st.booleans())
        def publish(topic: Topic, choice: int, payload: bytes | Damage, retain: bool) -> None:
            attack.publish(topic, choice, payload, retain=retain)
            assert work.failure is None

        publish()
        # Whatever hypothesis chose, each topic has each kind of thing that must not be there.
        dice = random.Random(1)
        wrong = cbor2.dumps([1, 36, 1, 1, 2**64 - 1, []])
        for topic in TOPICS:
            for choice in range(6):
                for data in (
                    b"\xff",
                    dice.randbytes(300),
                    b"\x81" * 40_000,
                    wrong,
                    bytes(49 * 1024),
                ):
                    if topic.message is not MessageType.OUTCOMES or data != wrong:
                        attack.publish(topic, choice, data, retain=choice % 2 == 0)
        answered = work.answered
        eventually(lambda: work.answered > answered + 50, "tasks go on")
    assert set(attack.published) == {topic.suffix for topic in TOPICS}
    check_unharmed(mesh, pids)
    after = resident_bytes(mesh)
    assert all(after[name] - before[name] < ROOM_BYTES for name in before), (before, after)
    assert mesh.metric("wire_faults_total") - faults > 100

    def large_ones_are_counted() -> bool:
        # How many hypothesis chose is luck; these are beyond what the decoder lets through.
        stranger.publish(topics.NODE_RESULTS.on(MESH, "n1"), bytes(200_000))
        return mesh.metric("mqtt_oversized_total") - oversized > 10

    eventually(large_ones_are_counted, "large ones are counted")
    assert mesh.metric("tasks_open") == 0
    assert mesh.metric("tasks_dead_total") == 0
    assert attack.malformed > 500
    assert work.client_faults > 10
    for node in ("n1", "n2"):
        assert "dropped a message on" in mesh.log(node)
    assert "ignored a message on" in mesh.log("coordinator")
    # Everything that was retained is still there: it must not keep anyone from joining.
    with maille_api.Mesh(mesh.broker_url) as new:
        assert new.run("slow", [20.0])["answer"] == [40.0]
    mesh.signal("n2", signal.SIGTERM)
    mesh.start_node("n2")
    mesh.wait_for_state("n2", "ready")
    mesh.signal("coordinator", signal.SIGKILL)
    mesh.start_coordinator()
    for node in ("n1", "n2"):
        mesh.wait_for_state(node, "ready")
    with maille_api.Mesh(mesh.broker_url) as new:
        assert new.run("slow", [21.0], target="n2")["answer"] == [42.0]
    told = maille(mesh, "nodes", "--url", mesh.http_url)
    assert told.returncode == 0, told.stderr
    attack.clean()


ALWAYS_HEARD = {
    MessageType.NODE_STATUS,
    MessageType.NODE_INFO,
    MessageType.HEARTBEAT,
    MessageType.RESULTS,
    MessageType.OFFERS,
    MessageType.COORDINATOR_STATE,
    MessageType.SUBMIT,
    MessageType.OUTCOMES,
}


def overheard(stranger: Stranger) -> dict[MessageType, bytes]:
    """The last payload of each kind of message that went by."""
    kinds: dict[MessageType, bytes] = {}
    for heard in list(stranger.heard):
        with contextlib.suppress(WireError, UsageError):
            address = topics.parse(heard.topic)
            kinds[address.topic.message] = heard.payload
            unpack(heard.payload, frozenset({address.topic.message}))
    return kinds


def test_messages_of_the_wrong_kind(mesh: RealMesh, stranger: Stranger) -> None:
    """Every message that was overheard, unchanged, on every topic where it does not belong."""
    pids = {name: process.pid for name, process in mesh.processes.items()}
    faults = mesh.metric("wire_faults_total")
    with tasks_running(mesh) as work:
        # Others depend on the moment: a task that ends at once is not acknowledged, for one.
        eventually(lambda: set(overheard(stranger)) >= ALWAYS_HEARD, "what is always said")
        kinds = overheard(stranger)
        sent = 0
        for topic in TOPICS:
            real = {Party.NODE: "n1", Party.COORDINATOR: "coordinator", Party.CLIENT: work.client}
            for kind, payload in kinds.items():
                if kind is not topic.message:
                    stranger.publish(topic.on(MESH, real[topic.party]), payload)
                    sent += 1
        # Nor do topics that do not exist harm anyone, below a branch that is listened to.
        for where in (
            "n/n1/dn/nothing",
            "n/n1/up/nothing",
            "n/N1/state",
            "u/x/up/y",
            "c/C",
            "c/a b",
        ):
            stranger.publish(f"maille/1/{MESH}/{where}", b"\x80")
        eventually(lambda: work.answered > 100, "tasks go on")
    check_unharmed(mesh, pids)
    assert sent > 100
    assert mesh.metric("wire_faults_total") > faults + 50
    assert mesh.metric("tasks_open") == 0


def test_a_crowd_of_devices_that_do_not_exist(mesh: RealMesh, stranger: Stranger) -> None:
    """Births and heartbeats of a thousand unknown ids: bounded memory, a mesh that still answers."""
    pids = {name: process.pid for name, process in mesh.processes.items()}
    with tasks_running(mesh) as work:
        before = resident_bytes(mesh)
        for number in range(1000):
            payload = cbor2.dumps([1, 1, 1000 + number, 1, 0, [1, "a ghost"]])
            stranger.publish(f"maille/1/{MESH}/n/crowd-{number}/state", payload)
        answered = work.answered
        eventually(lambda: work.answered > answered + 50, "tasks go on")
        assert mesh.metric("nodes_known") > 1000
        after = resident_bytes(mesh)
    assert all(after[name] - before[name] < ROOM_BYTES for name in before), (before, after)
    check_unharmed(mesh, pids)
    with urllib.request.urlopen(f"{mesh.http_url}/healthz", timeout=10) as answer:
        assert answer.status == 200
