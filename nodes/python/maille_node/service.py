"""The shell of a PC node: carries the core's actions out and tells it what happened."""

import asyncio
import logging
import math
import platform
import random
import secrets
import time
from collections.abc import Coroutine
from importlib import metadata

import httpx
import psutil

from maille_broker import Endpoint, Link, Message, Will
from maille_node import events, identity
from maille_node.artefacts import ArtefactCache
from maille_node.core import CoreSettings, NodeCore
from maille_node.errors import SettingsError
from maille_node.events import Action, Event
from maille_node.feeding import Feeder
from maille_node.language.service import STAGE_MESSAGES, StageService
from maille_node.measure import measure
from maille_node.runtime import Runtime
from maille_node.settings import (
    MAX_DEFAULT_SLOTS,
    MAX_DEFAULT_WORKERS,
    SLOTS_PER_CORE,
    NodeSettings,
)
from maille_node.supply import Supply
from maille_protocol import (
    Envelope,
    Measured,
    ModelFormat,
    NodeInfo,
    NodeKind,
    StageReport,
    Tokens,
    WireError,
    topics,
    unpack,
)
from maille_protocol.limits import MAX_PUBLISH_BYTES

logger = logging.getLogger(__name__)

SHARED_LOGIN = "node"
"""User name that all nodes of a broker may share."""

BATTERY_INTERVAL_S = 30.0
FAREWELL_S = 2.0
_HTTP_LIMITS = httpx.Limits(max_connections=16, max_keepalive_connections=4)
_HTTP_TIMEOUT = httpx.Timeout(20.0, connect=5.0, pool=None)
_WARNINGS_OF_ONE_KIND = 20


class NodeService:
    """One node in one event loop.

    `run` returns why it stopped. `request_drain` lets it finish what it holds and stop; a second
    call stops it at once.
    """

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._boot = secrets.randbits(63) | 1
        self._feeder: Feeder[Event, Action] | None = None
        self._core: NodeCore | None = None
        self._link: Link | None = None
        self._runtime: Runtime | None = None
        self._artefacts: ArtefactCache | None = None
        self._supply: Supply | None = None
        self._stages: StageService | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._stop: asyncio.Future[events.Stop] | None = None
        self._early_drains = 0
        self._node = settings.node or ""
        self._topics: dict[topics.Topic, str] = {}
        self.bad_messages = 0
        """Messages that were dropped because they are not what the topic carries."""

    @property
    def node(self) -> str:
        """The node's id; "" until `run` has chosen it."""
        return self._node

    @property
    def boot(self) -> int:
        """This process's number in what it sends."""
        return self._boot

    @property
    def core(self) -> NodeCore | None:
        """The node's decisions, to look at; None until `run`."""
        return self._core

    @property
    def runtime(self) -> Runtime | None:
        """The node's models, to look at; None until `run`."""
        return self._runtime

    @property
    def stages(self) -> StageService | None:
        """The node's slices of language models, to look at; None until `run`."""
        return self._stages

    def request_drain(self) -> None:
        """Finish what is held and stop; called again: stop at once. Call it in the event loop."""
        if self._core is None:
            self._early_drains += 1
        else:
            self._feed(events.DrainRequested(self._settings.drain_timeout_s * 1000))

    async def run(self) -> events.Stop:
        """Be a node until told to stop.

        Raises:
            SettingsError: a directory or address cannot be used.
            BrokerRefused: the broker refused the login.
            BrokerUnavailable: no broker answered within `connect_timeout_s`.
            BrokerConfigError: the TLS settings cannot be used.
        """
        settings = self._settings
        own = None if settings.node else identity.claim(settings.state_directory)
        self._node = own.node if own is not None else settings.node or ""
        try:
            return await self._run_as(self._node)
        finally:
            if own is not None:
                own.close()

    async def _run_as(self, node: str) -> events.Stop:
        settings = self._settings
        measured = await asyncio.to_thread(
            measure,
            settings.cache_directory,
            settings.state_directory,
            remeasure=settings.remeasure,
        )
        workers = settings.workers or min(measured.cores, MAX_DEFAULT_WORKERS)
        tls = settings.endpoint.tls_context()
        async with httpx.AsyncClient(
            timeout=_HTTP_TIMEOUT,
            limits=_HTTP_LIMITS,
            verify=tls if tls is not None else True,
            # The coordinator is in the same network: the environment's proxies are not meant.
            trust_env=False,
        ) as client:
            try:
                self._artefacts = artefacts = ArtefactCache(
                    settings.cache_directory, settings.cache_limit_bytes, client
                )
            except OSError as error:
                raise SettingsError(
                    f"the cache directory {settings.cache_directory} cannot be used "
                    f"({error.strerror}): make it writable, or give another one"
                ) from error
            self._runtime = runtime = Runtime(
                workers=workers,
                threads=max(1, measured.cores // workers),
                memory_limit_bytes=settings.model_memory_limit_bytes or measured.memory_bytes // 2,
                read_reference=artefacts.read,
                on_forgotten=lambda sha256: self._feed(events.ModelForgotten(sha256)),
            )
            self._supply = supply = Supply(settings, artefacts, runtime, self._feed)
            self._core = core = NodeCore(
                CoreSettings(
                    info=_describe(settings, node, measured),
                    boot=self._boot,
                    workers=workers,
                    max_batch=settings.max_batch,
                ),
                jitter=lambda: random.uniform(-1, 1),
                now_ms=_now_ms(),
            )
            self._feeder = Feeder(core.handle, self._carry_out, _now_ms)
            self._stages = stages = StageService(
                node,
                self._boot,
                fetch=supply.fetch_slice,
                release=supply.release_slice,
                send=self._send_activation,
                say=self._say_of_stage,
                on_serving=lambda count: self._feed(events.StagesServed(count)),
                threads=settings.stage_threads,
            )
            self._topics = {topic: topic.on(settings.mesh, node) for topic in topics.TOPICS}
            self._link = link = Link(
                settings.endpoint,
                client_id(settings.endpoint, node, self._boot),
                subscriptions=topics.node_subscriptions(settings.mesh, node),
                will=Will(self._topics[topics.NODE_STATE], core.will(), qos=1, retain=True),
                on_messages=self._on_messages,
                on_up=lambda: self._feed(events.LinkUp()),
                on_down=lambda reason: self._feed(events.LinkDown(reason)),
            )
            stop: asyncio.Future[events.Stop] = asyncio.get_running_loop().create_future()
            self._stop = stop
            if settings.http_url is not None:
                supply.use_coordinator(settings.http_url)
            self._feed(events.Tick())
            for _ in range(self._early_drains):
                self.request_drain()
            self._spawn(self._watch_battery())
            logger.info("node %s in mesh %s: %d workers", node, settings.mesh, workers)
            try:
                return await self._until_stopped(link, stop)
            finally:
                await self._shut(artefacts, runtime, supply, stages)

    async def _until_stopped(self, link: Link, stop: asyncio.Future[events.Stop]) -> events.Stop:
        running = asyncio.create_task(
            link.run(first_connect_timeout_s=self._settings.connect_timeout_s)
        )

        def link_ended(task: asyncio.Task[None]) -> None:
            # By itself the link only ends with an error.
            error = None if task.cancelled() else task.exception()
            if not stop.done():
                stop.set_exception(error or RuntimeError("the link ended without a reason"))

        running.add_done_callback(link_ended)
        try:
            action = await stop
            if link.is_up:
                await link.flush(FAREWELL_S)
            await link.close()
            return action
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _shut(
        self,
        artefacts: ArtefactCache,
        runtime: Runtime,
        supply: Supply,
        stages: StageService,
    ) -> None:
        if self._feeder is not None:
            self._feeder.stop()
        if self._timer is not None:
            self._timer.cancel()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await stages.close()
        await supply.close()
        await artefacts.close()
        runtime.close()

    # --- in ------------------------------------------------------------------------------------

    def _on_messages(self, messages: list[Message]) -> None:
        envelopes: list[Envelope] = []
        for message in messages:
            if message.retain and not message.payload:
                continue  # a retained topic was cleared
            try:
                envelope = envelope_of(message)
                if envelope.message.TYPE not in STAGE_MESSAGES:
                    envelopes.append(envelope)
                elif self._stages is not None:
                    self._stages.heard(envelope)
            except WireError as error:
                self.bad_messages += 1
                if self.bad_messages <= _WARNINGS_OF_ONE_KIND:
                    logger.warning("dropped a message on %.80s: %s", message.topic, error)
        if envelopes:
            self._feed(events.Heard(tuple(envelopes)))

    def _feed(self, event: Event) -> None:
        if self._feeder is not None:
            self._feeder.feed(event)

    # --- out -----------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        link, runtime, artefacts = self._link, self._runtime, self._artefacts
        supply = self._supply
        if link is None or runtime is None or artefacts is None or supply is None:
            return
        match action:
            case events.Publish(topic=topic, payload=payload, results=results):
                sent = len(payload) <= MAX_PUBLISH_BYTES and link.publish(
                    self._topics[topic], payload, qos=topic.qos, retain=topic.retain
                )
                if not sent and results:
                    self._feed(events.NotPublished(results))
            case events.RunBatch():
                runtime.start(action, self._feed)
            case events.Prepare(model=model):
                loaded = runtime.pin(model.sha256)
                if loaded is not None:
                    self._feed(events.ModelReady(model.sha256, loaded.joinable))
                else:
                    self._spawn(supply.prepare(model))
            case events.Release(sha256=sha256):
                runtime.unpin(sha256)
            case events.WakeAt(at_ms=at_ms):
                self._wake_at(at_ms)
            case events.FetchInput(task_id=task_id, reference=reference):
                artefacts.acquire(reference.sha256)
                self._spawn(supply.fetch_input(task_id, reference))
            case events.ReleaseInput(reference=reference):
                artefacts.release(reference.sha256)
            case events.Upload(task_id=task_id, data=data):
                self._spawn(supply.upload(task_id, data))
            case events.AbortBatch(batch=batch):
                runtime.abort(batch)
            case events.UseCoordinator(http_url=http_url):
                if self._settings.http_url is None:
                    supply.use_coordinator(http_url)
            case events.Note(level=level, text=text):
                logger.log(level, "%s", text)
            case events.Stop():
                if self._stop is not None and not self._stop.done():
                    self._stop.set_result(action)

    def _send_activation(self, node: str, payload: bytes) -> None:
        # What does not leave is lost: the coordinator notices that the ring stands still.
        if self._link is not None:
            topic = topics.NODE_ACTIVATION
            self._link.publish(topic.on(self._settings.mesh, node), payload, qos=topic.qos)

    def _say_of_stage(self, message: StageReport | Tokens) -> None:
        topic = topics.NODE_TOKENS if isinstance(message, Tokens) else topics.NODE_STAGE_REPORT
        self._feed(events.Speak(topic, message))

    def _wake_at(self, at_ms: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, (at_ms - _now_ms()) / 1000)
        # A hair later than asked, so that the core never finds itself woken too early.
        self._timer = asyncio.get_running_loop().call_later(
            delay_s + 0.0005, self._feed, events.Tick()
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _watch_battery(self) -> None:
        while True:
            # Absent on some systems, None where there is no battery.
            read = getattr(psutil, "sensors_battery", None)
            try:
                battery = read() if read is not None else None
            except (OSError, ValueError):
                battery = None
            if battery is None:
                return
            self._feed(events.BatteryRead(max(0, min(100, math.floor(battery.percent)))))
            await asyncio.sleep(BATTERY_INTERVAL_S)


def envelope_of(message: Message) -> Envelope:
    """What a publish to a node holds; WireError if it does not belong on its topic."""
    topic = topics.parse(message.topic).topic
    if message.retain and not topic.retain:
        raise WireError("an order may not be retained: an old one would run again")
    return unpack(message.payload, frozenset({topic.message}))


def _now_ms() -> float:
    return time.monotonic_ns() / 1e6


def _describe(settings: NodeSettings, node: str, measured: Measured) -> NodeInfo:
    name = settings.name or platform.node() or node
    return NodeInfo(
        kind=NodeKind.PC,
        name=name[:64],
        software=f"maille {metadata.version('maille')}"[:64],
        slots=settings.slots or min(MAX_DEFAULT_SLOTS, SLOTS_PER_CORE * measured.cores),
        formats=(ModelFormat.ONNX, ModelFormat.TINY, ModelFormat.SLICE),
        max_message_bytes=MAX_PUBLISH_BYTES,
        measured=measured,
    )


def client_id(endpoint: Endpoint, node: str, boot: int) -> str:
    """What the broker knows this connection by."""
    if endpoint.username == SHARED_LOGIN:
        # A broker whose nodes share a login holds each to the topics of its client id.
        return node
    # Else not the bare id: a second node with this id must not push the first one out before
    # the coordinator has told them apart.
    return f"{node}-{boot:016x}"
