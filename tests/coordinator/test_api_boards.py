"""Boards and senses over HTTP: a real board service, a board in Python at the end of a call."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import httpx
from api_service import MemoryService
from test_api_basics import error_of

from maille_coordinator.api import create_app
from maille_coordinator.boards.runner import BoardService, Surroundings
from maille_coordinator.core import Core
from maille_coordinator.core.events import BrokerConnected, ForgetAsked, ModelRefused, NodeSpoke
from maille_coordinator.models import Inspection, inspect_model
from maille_coordinator.models.tiny_models import TinyModels
from maille_coordinator.records import MeshEvent
from maille_coordinator.store import Store
from maille_protocol import (
    Envelope,
    Measured,
    Message,
    ModelFormat,
    NodeInfo,
    NodeKind,
    NodeState,
    NodeStatus,
)
from maille_protocol.topics import Topic
from maille_simulator.boards.python_board import BoardLimits, Flash, PythonBoard, Said
from maille_simulator.boards.sample_models import dense_model, switch_model

_INSPECTIONS: dict[bytes, Inspection] = {}
LIMITS = BoardLimits(max_models=2, max_model_bytes=2000)


class Wired:
    """A board service whose broker is a function call."""

    def __init__(self, service: MemoryService, directory: Path) -> None:
        self.service = service
        self.store = Store(directory / "journal.sqlite")
        self.store.open()
        self.core = Core(epoch=1, random=Random(1))
        self.core.handle(BrokerConnected(), 1000.0)
        self.now_ms = 1000.0
        self.events: list[MeshEvent] = []
        self.board = PythonBoard(
            "pico-1",
            Flash(),
            boot=7,
            sensors={"adc0": (1, lambda: [0.8]), "pair": (2, lambda: [0.0, 1.0])},
            limits=LIMITS,
        )
        self._seq = {"pico-1": 0, "desk": 0}
        self.boards = BoardService(
            Surroundings(
                store=self.store,
                models=TinyModels(service.artefacts),
                now_ms=lambda: self.now_ms,
                send=self._send,
                publish=self.events.append,
                refuse=self._refuse,
                failed=self._fail,
            )
        )
        self.boards.open(self.core)
        info = NodeInfo(NodeKind.PC, "desk", "", 1, (ModelFormat.ONNX,), 49152, Measured())
        for message in (NodeStatus(NodeState.INIT), info, NodeStatus(NodeState.READY)):
            self.hear("desk", message)
        self.say(self.board.start(self.now_ms))

    def _refuse(self, event: ModelRefused) -> None:
        self.core.handle(event, self.now_ms)

    def _fail(self, error: Exception) -> None:
        raise error

    def _send(self, _topic: Topic, node: str, message: Message) -> bool:
        assert node == "pico-1"
        envelope = Envelope(5, 1, 1, message)
        asyncio.get_running_loop().call_soon(
            lambda: self.say(self.board.handle(envelope, self.now_ms))
        )
        return True

    def say(self, said: Said) -> None:
        for _, message in said:
            self.hear("pico-1", message)

    def hear(self, node: str, message: Message) -> None:
        self._seq[node] += 1
        event = NodeSpoke(node, Envelope(7, self._seq[node], 1, message))
        self.core.handle(event, self.now_ms)
        self.boards.observe(self.core, [(node, 7, message)], [], timed=True)

    def tick(self, ms: float) -> None:
        self.now_ms += ms
        self.say(self.board.tick(self.now_ms))

    async def add(self, name: str, data: bytes) -> None:
        info = await self.service.artefacts.add(data)
        await self.service.artefacts.keep(info.sha256)
        file = self.service.artefacts.path(info.sha256)
        if data not in _INSPECTIONS:
            _INSPECTIONS[data] = await inspect_model(file)
        inspection = _INSPECTIONS[data]
        assert inspection.format is ModelFormat.TINY
        digest = hashlib.sha256(data).digest()
        self.service.catalogue.add(name, digest, len(data), inspection.format, inspection)


def play(tmp_path: Path, scenario: Callable[[Wired, httpx.AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        service = MemoryService(tmp_path)
        wired = Wired(service, tmp_path)
        app = create_app(service, key=None, boards=wired.boards)
        transport = httpx.ASGITransport(app=app)
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1"
            ) as client:
                await wired.add("switch", switch_model())
                await wired.add("wide", dense_model(64, 10))
                await wired.add("large", dense_model(64, 40))
                await scenario(wired, client)
        finally:
            wired.boards.close()
            wired.store.close()
            service.catalogue.close()

    asyncio.run(run())


async def settle() -> None:
    """Let every call that was wanted soon be made, and those that follow from it."""
    for _ in range(60):
        await asyncio.sleep(0)


def test_a_model_goes_to_a_board_and_leaves_it(tmp_path: Path) -> None:
    async def scenario(wired: Wired, client: httpx.AsyncClient) -> None:
        (board,) = (await client.get("/api/boards")).json()["boards"]
        assert (board["node"], board["reachable"], board["models"]) == ("pico-1", True, [])
        assert [sensor["name"] for sensor in board["sensors"]] == ["adc0", "pair"]
        assert board["kernels"] == [{"kernel": "dense", "operations_per_s": 1_000_000}]
        answer = await client.post("/api/boards/pico-1/models", json={"model": "wide"})
        assert answer.status_code == 202
        assert answer.json()["state"] == "sending"
        await settle()
        shown = (await client.get("/api/boards/pico-1")).json()
        (model,) = shown["models"]
        assert (model["model"], model["state"], model["wanted_by"]) == ("wide", "ready", "person")
        assert model["received_bytes"] == model["size_bytes"] == len(dense_model(64, 10))
        assert [wish.node for wish in wired.store.wishes()] == ["pico-1"]
        await client.delete("/api/boards/pico-1/models/wide")
        await settle()
        assert (await client.get("/api/boards/pico-1")).json()["models"] == []
        assert wired.store.wishes() == []
        kinds = [event.kind for event in wired.events]
        assert kinds == ["board.deploying", "board.deployed", "board.evicted"]

    play(tmp_path, scenario)


def test_a_board_measures_itself(tmp_path: Path) -> None:
    async def scenario(_wired: Wired, client: httpx.AsyncClient) -> None:
        asked = await client.post("/api/boards/pico-1/calibrate")
        assert (asked.status_code, asked.json()["calibrating"]) == (202, True)
        await settle()
        shown = (await client.get("/api/boards/pico-1")).json()
        assert (shown["calibrating"], shown["calibrated"]) == (False, 1)
        assert shown["kernels"][0]["operations_per_s"] == 1_000_001

    play(tmp_path, scenario)


def test_a_model_on_a_sensor(tmp_path: Path) -> None:
    async def scenario(wired: Wired, client: httpx.AsyncClient) -> None:
        wanted = {"node": "pico-1", "model": "switch", "sensor": "adc0", "interval_ms": 500}
        started = await client.post("/api/senses", json=wanted)
        assert started.status_code == 201
        number = started.json()["sense"]
        await settle()
        for _ in range(3):
            wired.tick(500)
        shown = (await client.get(f"/api/senses/{number}")).json()
        assert (shown["state"], shown["readings"]) == ("running", 3)
        assert shown["latest"]["outputs"] == {"class": ["high"]}
        readings = (await client.get(f"/api/senses/{number}/readings?limit=2")).json()["readings"]
        assert [reading["counter"] for reading in readings] == [3, 2]
        event = next(found for found in wired.events if found.kind == "sense.reading")
        assert (event.text, event.details["sensor"]) == ('{"class": ["high"]}', "adc0")
        again = await client.post("/api/senses", json={**wanted, "changes": True})
        await settle()
        assert again.json()["sense"] != number, "a changed one takes the old one's place"
        (only,) = (await client.get("/api/senses")).json()["senses"]
        assert (only["sense"], only["changes"]) == (again.json()["sense"], True)
        in_use = await client.delete("/api/boards/pico-1/models/switch")
        assert error_of(in_use)[:2] == (409, "model_in_use")
        stopped = await client.delete(f"/api/senses/{only['sense']}")
        assert stopped.json()["model"] == "switch"
        await settle()
        assert (await client.get("/api/senses")).json() == {"senses": []}
        assert wired.board._state().senses == ()

    play(tmp_path, scenario)


def test_what_cannot_be_says_why(tmp_path: Path) -> None:
    async def scenario(wired: Wired, client: httpx.AsyncClient) -> None:
        def sense(**changes: object) -> dict[str, object]:
            return {"node": "pico-1", "model": "switch", "sensor": "adc0", **changes}

        cases: list[tuple[httpx.Response, int, str, str]] = [
            (
                await client.post("/api/boards/attic/models", json={"model": "switch"}),
                *(404, "unknown_node", "maille nodes"),
            ),
            (
                await client.post("/api/boards/desk/models", json={"model": "switch"}),
                *(409, "not_a_board", "fetches models by itself"),
            ),
            (
                await client.post("/api/boards/pico-1/models", json={"model": "swich"}),
                *(404, "unknown_model", "did you mean 'switch'"),
            ),
            (
                await client.post("/api/boards/pico-1/models", json={"model": "large"}),
                *(409, "model_too_large", "takes at most 2000"),
            ),
            (
                await client.post("/api/boards/pico-1/models", json={"name": "switch"}),
                *(422, "invalid_request", "model"),
            ),
            (
                await client.delete("/api/boards/pico-1/models/switch"),
                *(404, "model_not_held", "does not hold"),
            ),
            (
                await client.post("/api/senses", json=sense(sensor="gyro")),
                *(409, "no_such_sensor", "it has: adc0, pair"),
            ),
            (
                await client.post("/api/senses", json=sense(sensor="pair")),
                *(409, "input_shape", "gives 2 value(s)"),
            ),
            (
                await client.post("/api/senses", json=sense(interval_ms=-1)),
                *(422, "invalid_request", "interval_ms"),
            ),
            (await client.get("/api/senses/9"), *(404, "unknown_sense", "maille sense --list")),
            (await client.delete("/api/senses/9"), *(404, "unknown_sense", "sense 9")),
            (await client.get("/api/senses/9/readings"), *(404, "unknown_sense", "sense 9")),
            (await client.get("/api/boards/attic"), *(404, "unknown_node", "attic")),
        ]
        for answer, status, code, text in cases:
            told = error_of(answer)
            assert told[:2] == (status, code), told
            assert text in told[2]
        assert wired.store.wishes() == []

    play(tmp_path, scenario)


def test_senses_need_their_models(tmp_path: Path) -> None:
    async def scenario(_wired: Wired, client: httpx.AsyncClient) -> None:
        for model, sensor in (("switch", "adc0"), ("other", "adc0")):
            if model == "other":
                await _wired.add("other", switch_model(("a", "b")))
            wanted = {"node": "pico-1", "model": model, "sensor": sensor}
            assert (await client.post("/api/senses", json=wanted)).status_code == 201
            await settle()
        full = await client.post("/api/boards/pico-1/models", json={"model": "wide"})
        assert error_of(full)[:2] == (409, "no_space")
        assert "senses need them all" in error_of(full)[2]

    play(tmp_path, scenario)


def test_a_forgotten_board_is_forgotten(tmp_path: Path) -> None:
    async def scenario(wired: Wired, client: httpx.AsyncClient) -> None:
        await client.post("/api/boards/pico-1/models", json={"model": "switch"})
        await settle()
        wired.hear("pico-1", NodeStatus(NodeState.DISCONNECTED))
        assert (await client.get("/api/boards/pico-1")).json()["reachable"] is False
        wired.core.handle(ForgetAsked("pico-1"), wired.now_ms)
        wired.boards.observe(wired.core, [], [], timed=True)
        assert (await client.get("/api/boards")).json() == {"boards": []}
        assert wired.store.wishes() == []

    play(tmp_path, scenario)


def test_a_coordinator_that_starts_again_still_wants_it(tmp_path: Path) -> None:
    async def scenario(wired: Wired, client: httpx.AsyncClient) -> None:
        await client.post("/api/boards/pico-1/models", json={"model": "wide"})
        wanted = {"node": "pico-1", "model": "switch", "sensor": "adc0"}
        await client.post("/api/senses", json=wanted)
        await client.post("/api/boards/pico-1/calibrate")
        before = sorted(map(str, wired.store.wishes()))
        wired.store.close()
        wired.store.open()
        assert sorted(map(str, wired.store.wishes())) == before
        assert len(before) == 3

    play(tmp_path, scenario)


def test_the_page_describes_boards(tmp_path: Path) -> None:
    async def scenario(_wired: Wired, client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        for path in (
            "/api/boards",
            "/api/boards/{node}",
            "/api/boards/{node}/models",
            "/api/boards/{node}/models/{name}",
            "/api/boards/{node}/calibrate",
            "/api/senses",
            "/api/senses/{sense}",
            "/api/senses/{sense}/readings",
        ):
            for operation in document["paths"][path].values():
                assert operation["summary"]
                assert operation["description"]

    play(tmp_path, scenario)
