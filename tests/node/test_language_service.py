"""Slices of a real model run through real nodes over a real broker, arranged by hand."""

import asyncio
import contextlib
import hashlib
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import node_mesh
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from language_mesh import uint32s
from node_mesh import MESH, MOSQUITTO, ArtefactServer, FakeCoordinator

from maille_broker import Endpoint
from maille_coordinator.slices import LanguageModel, SliceFile, read_model, write_slice
from maille_node import NodeService, NodeSettings, StopReason
from maille_node.language.choosing import settings_of
from maille_node.language.sampling import sample
from maille_node.language.stage import Stage
from maille_protocol import (
    Activation,
    ActivationFlag,
    ActivationKind,
    ErrorCode,
    Finish,
    ModelFormat,
    NodeInfo,
    Reference,
    Route,
    Sampling,
    SessionCommand,
    SessionOrder,
    StageCommand,
    StageOrder,
    StageReport,
    StageState,
    Tokens,
    topics,
)

sys.path.append(str(Path(__file__).parent.parent / "coordinator"))
from tiny_gguf import TinyModel, write_tiny  # type: ignore[import-not-found, unused-ignore]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

PIPELINE = 3
CAPACITY = 120
CHANCE = Sampling(
    temperature_ppm=1_500_000, top_k=50, repetition_ppm=1_200_000, frequency_ppm=100_000, seed=11
)
GREEDY = Sampling(temperature_ppm=0, top_logprobs=2)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with node_mesh.mosquitto(tmp_path_factory.mktemp("broker"), node_mesh.free_port()) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny(path, TinyModel(layers=3, kind=Kind.Q4_1))
    return read_model(path)


@pytest.fixture
def server() -> Iterator[ArtefactServer]:
    with ArtefactServer() as running:
        yield running


def cut(model: LanguageModel, folder: Path, count: int) -> list[SliceFile]:
    bounds = [model.layer_count * part // count for part in range(count + 1)]
    return [
        write_slice(
            model,
            first,
            stop - 1,
            folder,
            with_embedding=first == 0,
            with_head=stop == model.layer_count,
        )
        for first, stop in pairwise(bounds)
    ]


def alone(
    model: LanguageModel, folder: Path, prompt: list[int], count: int, sampling: Sampling
) -> list[int]:
    """The answer of one stage that holds everything."""
    stage = Stage.open(cut(model, folder, 1)[0].path)
    cache = stage.new_cache(CAPACITY)
    tokens = list(prompt)
    logits = stage.run(cache, np.array(prompt), [len(prompt) - 1])
    while True:
        chosen = sample(logits[0], settings_of(sampling), len(tokens), tokens, len(prompt))
        tokens.append(chosen.token)
        if len(tokens) == len(prompt) + count:
            return tokens[len(prompt) :]
        logits = stage.run(cache, np.array([chosen.token]), [0])


class Conductor:
    """Sends orders through a `FakeCoordinator`, keeps what comes of them."""

    def __init__(self, mesh: FakeCoordinator) -> None:
        self.mesh = mesh
        self.layout = 0

    def said(self, kind: type[StageReport] | type[Tokens]) -> list[StageReport | Tokens]:
        found = [envelope.message for envelope in self.mesh.envelopes]
        return [message for message in found if isinstance(message, kind)]

    def reports(self, state: StageState) -> list[StageReport]:
        found = self.said(StageReport)
        return [one for one in found if isinstance(one, StageReport) and one.state is state]

    async def load(
        self,
        node: str,
        stage: int,
        reference: Reference | SliceFile,
        *,
        command: StageCommand = StageCommand.LOAD,
        limit: int = 1 << 30,
    ) -> StageReport:
        nonce = secrets.randbits(31)
        found = Reference(reference.sha256, reference.size_bytes)
        order = StageOrder(command, PIPELINE, stage, found, limit, nonce)
        self.mesh.send(topics.NODE_STAGE, order, name=node)
        ended = {StageState.READY, StageState.MEASURED, StageState.FAILED, StageState.GONE}

        def answers() -> list[StageReport]:
            return [
                report
                for report in self.said(StageReport)
                if isinstance(report, StageReport)
                and report.nonce == nonce
                and report.state in ended
            ]

        await self.mesh.until(lambda: bool(answers()))
        return answers()[0]

    def route(self, *nodes: str) -> None:
        self.layout += 1
        route = Route(PIPELINE, self.layout, tuple((node,) for node in nodes))
        for node in sorted(set(nodes)):
            self.mesh.send(topics.NODE_ROUTE, route, name=node)

    def order(
        self,
        node: str,
        command: SessionCommand,
        session: int,
        stage: int = 0,
        *,
        position: int = 0,
        until: int = 0,
        tokens: list[int] | None = None,
        sampling: Sampling | None = None,
        count: int = 0,
        capacity: int = CAPACITY,
    ) -> None:
        self.mesh.send(
            topics.NODE_SESSION,
            SessionOrder(
                command,
                PIPELINE,
                self.layout,
                session,
                stage,
                position,
                until,
                capacity,
                uint32s(tokens or []),
                sampling,
                count,
            ),
            name=node,
        )

    def generate(
        self, nodes: list[str], session: int, prompt: list[int], count: int, sampling: Sampling
    ) -> None:
        for stage, node in reversed(list(enumerate(nodes))):
            self.order(
                node,
                SessionCommand.OPEN,
                session,
                stage,
                tokens=prompt if stage in {0, len(nodes) - 1} else [],
                sampling=sampling,
                count=count,
            )

    def tokens(self, session: int, start: int) -> list[int]:
        """The answer without a gap."""
        found: dict[int, int] = {}
        for message in self.said(Tokens):
            assert isinstance(message, Tokens)
            if message.session == session:
                for at, token in enumerate(message.tokens):
                    assert found.setdefault(message.position + at, token.token) == token.token
        answer: list[int] = []
        while start + len(answer) in found:
            answer.append(found[start + len(answer)])
        return answer

    async def answer(self, session: int, prompt: list[int], count: int) -> list[int]:
        await self.mesh.until(lambda: len(self.tokens(session, len(prompt))) >= count)
        return self.tokens(session, len(prompt))


@contextlib.asynccontextmanager
async def running(endpoint: Endpoint, folder: Path, name: str) -> AsyncIterator[NodeService]:
    service = NodeService(
        NodeSettings(
            endpoint=endpoint,
            mesh=MESH,
            node=name,
            workers=1,
            cache_directory=folder / f"cache-{name}",
            state_directory=folder / "state",
            drain_timeout_s=5,
        )
    )
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        service.request_drain()
        service.request_drain()
        await task


def play(
    endpoint: Endpoint,
    server: ArtefactServer,
    folder: Path,
    count: int,
    work: Callable[[Conductor, list[str], dict[str, NodeService]], Awaitable[None]],
) -> None:
    async def main() -> None:
        names = [f"n{at}-{secrets.token_hex(4)}" for at in range(count)]
        async with (
            node_mesh.coordinator(endpoint, names[0], server.url) as mesh,
            contextlib.AsyncExitStack() as stack,
        ):
            services = {
                name: await stack.enter_async_context(running(endpoint, folder, name))
                for name in names
            }
            await mesh.until(
                lambda: all(
                    service.core is not None and service.core.epoch == mesh.epoch
                    for service in services.values()
                )
            )
            await work(Conductor(mesh), names, services)

    asyncio.run(main())


def serve(server: ArtefactServer, slices: list[SliceFile]) -> None:
    for found in slices:
        server.add(found.path.read_bytes())


PROMPT = [(7 * at) % 250 for at in range(50)]


@pytest.mark.parametrize("sampling", [GREEDY, CHANCE], ids=["greedy", "chance"])
@pytest.mark.parametrize("places", [(0,), (0, 1), (0, 1, 0)], ids=["one", "two", "three-on-two"])
def test_tokens_are_those_of_one_stage(
    broker: Endpoint,
    server: ArtefactServer,
    tmp_path: Path,
    model: LanguageModel,
    places: tuple[int, ...],
    sampling: Sampling,
) -> None:
    slices = cut(model, tmp_path / "slices", len(places))
    serve(server, slices)
    expected = [
        alone(model, tmp_path / "slices", prompt, 40, sampling) for prompt in (PROMPT, PROMPT[:3])
    ]

    async def work(
        conductor: Conductor, names: list[str], services: dict[str, NodeService]
    ) -> None:
        nodes = [names[place] for place in places]
        for stage, (node, found) in enumerate(zip(nodes, slices, strict=True)):
            report = await conductor.load(node, stage, found)
            assert report.state is StageState.READY, report.text
            assert report.decode_us > 0
            assert report.prefill_us > 0
            assert report.resident_bytes >= found.size_bytes
            assert report.free_bytes > 0
            assert len(report.fingerprint) == 16
        conductor.route(*nodes)
        conductor.generate(nodes, 1, PROMPT, 40, sampling)
        conductor.generate(nodes, 2, PROMPT[:3], 40, sampling)
        assert await conductor.answer(1, PROMPT, 40) == expected[0]
        assert await conductor.answer(2, PROMPT[:3], 40) == expected[1]
        finishes = [
            message.finish
            for message in conductor.said(Tokens)
            if isinstance(message, Tokens) and message.session == 1
        ]
        assert finishes == [Finish.NONE] * 39 + [Finish.LENGTH]
        for node in dict.fromkeys(nodes):
            conductor.order(node, SessionCommand.CLOSE, 1)
            conductor.order(node, SessionCommand.CLOSE, 2)
        await conductor.mesh.until(
            lambda: all(
                service.stages is not None and service.stages.core.session_count == 0
                for service in services.values()
            )
        )
        # The numbering of what a node says to the coordinator has no holes.
        for service in services.values():
            seqs = [one.seq for one in conductor.mesh.envelopes if one.boot == service.boot]
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))

    play(broker, server, tmp_path, max(places) + 1, work)


def test_a_lost_stage_is_filled_again_from_the_stage_before_it(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path, model: LanguageModel
) -> None:
    slices = cut(model, tmp_path / "slices", 2)
    serve(server, slices)
    expected = alone(model, tmp_path / "slices", PROMPT, 60, CHANCE)

    async def work(
        conductor: Conductor, names: list[str], services: dict[str, NodeService]
    ) -> None:
        first, lost, spare = names
        for node, stage in ((first, 0), (lost, 1), (spare, 1)):
            await conductor.load(node, stage, slices[stage])
        conductor.route(first, lost)
        conductor.generate([first, lost], 1, PROMPT, 60, CHANCE)
        await conductor.answer(1, PROMPT, 20)
        # No more of it: as if its process were gone.
        stages = services[lost].stages
        assert stages is not None
        await stages.close()
        known = await conductor.answer(1, PROMPT, 20)

        conductor.mesh.epoch += 1  # and another coordinator takes over
        conductor.route(first, spare)
        conductor.order(spare, SessionCommand.OPEN, 1, 1, tokens=PROMPT, sampling=CHANCE, count=60)
        conductor.order(spare, SessionCommand.OPEN, 1, 1, position=len(PROMPT), tokens=known)
        conductor.order(first, SessionCommand.REPLAY, 1, until=1)
        conductor.order(
            first,
            SessionCommand.INJECT,
            1,
            position=len(PROMPT) + len(known) - 1,
            tokens=known[-1:],
        )
        assert await conductor.answer(1, PROMPT, 60) == expected
        assert not conductor.reports(StageState.FAILED)

    play(broker, server, tmp_path, 3, work)


def test_sessions_outlive_the_connection_to_the_broker(
    server: ArtefactServer, tmp_path: Path, model: LanguageModel
) -> None:
    slices = cut(model, tmp_path / "slices", 2)
    serve(server, slices)
    expected = alone(model, tmp_path / "slices", PROMPT, 60, GREEDY)
    port = node_mesh.free_port()

    async def work(stack: contextlib.ExitStack) -> None:
        broker = contextlib.ExitStack()
        stack.push(broker)
        endpoint = broker.enter_context(node_mesh.mosquitto(tmp_path, port))
        names = ["one", "two"]
        async with (
            node_mesh.coordinator(endpoint, names[0], server.url) as mesh,
            running(endpoint, tmp_path, "one") as one,
            running(endpoint, tmp_path, "two") as two,
        ):
            conductor = Conductor(mesh)
            await mesh.until(lambda: len(mesh.statuses) >= 4)
            for stage, name in enumerate(names):
                await conductor.load(name, stage, slices[stage])
            conductor.route(*names)
            conductor.generate(names, 1, PROMPT, 60, GREEDY)
            await conductor.answer(1, PROMPT, 10)
            broker.close()
            await mesh.until(lambda: not mesh.link.is_up)
            known = conductor.tokens(1, len(PROMPT))
            assert len(known) < 60
            broker.enter_context(node_mesh.mosquitto(tmp_path, port))
            births = {one.boot, two.boot}
            since = len(mesh.statuses)
            # Whoever reconnects last finds the births of the others retained.
            await mesh.until(
                lambda: births <= {boot for boot, _ in mesh.statuses[since:]} and mesh.link.is_up
            )
            for service in (one, two):
                assert service.stages is not None
                assert service.stages.core.session_count == 1
            conductor.order("two", SessionCommand.RESEND, 1, 1, position=len(PROMPT))
            await mesh.until(lambda: len(conductor.tokens(1, len(PROMPT))) >= len(known))
            known = conductor.tokens(1, len(PROMPT))
            conductor.order(
                "one",
                SessionCommand.INJECT,
                1,
                position=len(PROMPT) + len(known) - 1,
                tokens=known[-1:],
            )
            assert await conductor.answer(1, PROMPT, 60) == expected

    with contextlib.ExitStack() as stack:
        asyncio.run(work(stack))


def test_a_drain_waits_until_the_stage_is_moved(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path, model: LanguageModel
) -> None:
    slices = cut(model, tmp_path / "slices", 1)
    serve(server, slices)

    async def work(
        conductor: Conductor, names: list[str], services: dict[str, NodeService]
    ) -> None:
        leaving, staying = names
        for name in names:
            await conductor.load(name, 0, slices[0])
        conductor.route(leaving)
        conductor.generate([leaving], 1, PROMPT, 60, GREEDY)
        await conductor.answer(1, PROMPT, 5)
        service = services[leaving]
        service.request_drain()
        # It goes on to serve, to the end of the answer and for another one.
        await conductor.answer(1, PROMPT, 60)
        conductor.generate([leaving], 2, PROMPT, 5, GREEDY)
        await conductor.answer(2, PROMPT, 5)
        assert service.core is not None
        assert service.core.state.name == "DRAINING"
        # The new layout has another node, and tells the leaving one so.
        conductor.layout += 1
        route = Route(PIPELINE, conductor.layout, ((staying,),))
        for name in names:
            conductor.mesh.send(topics.NODE_ROUTE, route, name=name)
        await conductor.mesh.until(
            lambda: service.core is not None and service.core.state.name == "DISCONNECTED"
        )
        last = [one for boot, one in conductor.mesh.statuses if boot == service.boot]
        await conductor.mesh.until(
            lambda: any(one.reason == "stopped" for _, one in conductor.mesh.statuses)
        )
        assert last

    play(broker, server, tmp_path, 2, work)


def test_bad_slices_are_reported_with_the_reason(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path, model: LanguageModel
) -> None:
    slices = cut(model, tmp_path / "slices", 2)
    serve(server, slices)
    rubbish = b"\xff" * 4096
    server.add(rubbish)

    async def work(
        conductor: Conductor, names: list[str], services: dict[str, NodeService]
    ) -> None:
        (name,) = names
        info = [
            one.message for one in conductor.mesh.envelopes if isinstance(one.message, NodeInfo)
        ]
        assert ModelFormat.SLICE in info[-1].formats
        measured = await conductor.load(name, 0, slices[0], command=StageCommand.MEASURE)
        assert measured.state is StageState.MEASURED
        stages = services[name].stages
        assert stages is not None
        assert stages.core.stage_count == 0

        missing = await conductor.load(name, 0, Reference(bytes(32), 10))
        assert (missing.state, missing.code) == (
            StageState.FAILED,
            ErrorCode.ARTEFACT_UNAVAILABLE,
        )
        bad = Reference(hashlib.sha256(rubbish).digest(), len(rubbish))
        damaged = await conductor.load(name, 0, bad)
        assert (damaged.state, damaged.code) == (StageState.FAILED, ErrorCode.MODEL_INVALID)
        assert "fetch it again" in damaged.text

        again = await conductor.load(name, 0, slices[0])
        assert again.state is StageState.READY
        assert again.fingerprint == measured.fingerprint
        gone = await conductor.load(name, 0, slices[0], command=StageCommand.UNLOAD)
        assert gone.state is StageState.GONE

    play(broker, server, tmp_path, 1, work)


def test_hostile_activations_change_nothing(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path, model: LanguageModel
) -> None:
    slices = cut(model, tmp_path / "slices", 2)
    serve(server, slices)
    expected = alone(model, tmp_path / "slices", PROMPT, 60, GREEDY)
    hidden = 256

    def activation(
        data: bytes, *, session: int = 1, layout: int = 1, stage: int = 1, count: int = 1
    ) -> Activation:
        kind, flags = ActivationKind.HIDDEN, int(ActivationFlag.SAMPLE)
        return Activation(PIPELINE, layout, session, stage, 3, count, kind, flags, 0, 0, 1, data)

    async def work(
        conductor: Conductor, names: list[str], services: dict[str, NodeService]
    ) -> None:
        first, second = names
        for stage, name in enumerate(names):
            await conductor.load(name, stage, slices[stage])
        conductor.route(first, second)
        conductor.generate(names, 1, PROMPT, 60, GREEDY)
        mesh = conductor.mesh
        good = np.ones(hidden, np.float32)
        bad = np.array([np.nan, np.inf] * (hidden // 2), np.float32)
        for _ in range(20):
            for one in (
                activation(bad.tobytes()),
                activation(good[1:].tobytes()),
                activation(good.tobytes(), count=3),
                activation(good.tobytes(), session=77),
                activation(good.tobytes(), layout=0),
                activation(good.tobytes(), stage=9),
            ):
                mesh.send(topics.NODE_ACTIVATION, one, name=second)
            mesh.link.publish(topics.NODE_ACTIVATION.on(MESH, second), secrets.token_bytes(200))
            await asyncio.sleep(0)
        assert await conductor.answer(1, PROMPT, 60) == expected
        service = services[second]
        assert service.stages is not None
        counters = service.stages.core.counters
        assert counters.not_finite == 20
        assert counters.misshapen == 40
        assert counters.old_layout == 20
        assert counters.unknown == 20
        assert service.bad_messages == 20

    play(broker, server, tmp_path, 2, work)


def test_the_drain_time_ends_a_drain(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path, model: LanguageModel
) -> None:
    slices = cut(model, tmp_path / "slices", 1)
    serve(server, slices)

    async def main() -> None:
        name = f"n-{secrets.token_hex(4)}"
        async with node_mesh.coordinator(broker, name, server.url) as mesh:
            service = NodeService(
                NodeSettings(
                    endpoint=broker,
                    mesh=MESH,
                    node=name,
                    workers=1,
                    cache_directory=tmp_path / "cache",
                    state_directory=tmp_path / "state",
                    drain_timeout_s=0.3,
                )
            )
            task = asyncio.create_task(service.run())
            conductor = Conductor(mesh)
            await mesh.ready()
            await conductor.load(name, 0, slices[0])
            conductor.route(name)
            conductor.generate([name], 1, PROMPT, 60, GREEDY)
            await conductor.answer(1, PROMPT, 60)
            service.request_drain()
            stop = await task
            assert stop.reason is StopReason.STOPPED
            assert "1 stages of language models" in stop.text

    asyncio.run(main())
