"""A scenario in real time, from the first process to the last."""

import asyncio
import contextlib
import logging
import math
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import httpx
import numpy as np
from rich.console import Console
from rich.live import Live

from maille.async_mesh import AsyncMesh
from maille.digits import load_digits
from maille.errors import MailleError, TaskCancelled, TaskDead, TaskError, TaskExpired
from maille_simulator.boards.sample_models import dense_model
from maille_simulator.errors import SimulatorError
from maille_simulator.real import probing
from maille_simulator.real.clock import shifted_clock
from maille_simulator.real.language import (
    answer,
    coordinator_options,
    demonstration_file,
    wait_until_cut,
)
from maille_simulator.real.launchers import check_tools
from maille_simulator.real.nodes import RealNodes, gateway_of, now_s
from maille_simulator.real.parts import MESH, Parts
from maille_simulator.real.serial_boards import sketch_model
from maille_simulator.real.view import live_view
from maille_simulator.report.record import AttemptSeen, RunRecord, TaskSeen, Twin, quantile
from maille_simulator.scenario.load import Arrival, arrivals
from maille_simulator.scenario.values import (
    EventKind,
    Happening,
    LinkQuality,
    LoadKind,
    NodeKindName,
    Scenario,
)
from maille_simulator.virtual.fit import fitted_profile
from maille_simulator.virtual.scenario_run import marks_of, run_virtually

PATIENCE_S = 45.0
"""How long tasks may take after the last one was submitted; then they count as lost."""

LANGUAGE_PATIENCE_S = 150.0
READY_POLL_S = 0.05
DISK_POLL_S = 0.5
LEAST_FREE_BYTES = 200_000_000
_FULL_BYTES = 1_000_000
PC_CALLS = 40


def run_for_real(scenario: Scenario, *, show: bool = True, measured: bool = False) -> RunRecord:
    """Play a scenario with real parts; every process has ended when this returns or raises.

    Args:
        scenario: what is played.
        show: draw the live view on standard error.
        measured: measure the machine before, for `with_twin`: some seconds more.

    Raises:
        ToolMissing: a program is not installed; names the package.
        SimulatorError: the disk is too full, or a part did not start.
        KeyboardInterrupt: after Ctrl-C, when everything has ended.
        SystemExit: the same after SIGTERM.
    """
    check_tools({group.kind for group in scenario.groups}, scenario.broker)
    if any(event.kind is EventKind.CLOCK_JUMP for event in scenario.events):
        shifted_clock(0.0)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < LEAST_FREE_BYTES:
        raise SimulatorError(
            f"{free / 1e6:.0f} MB are free in {tempfile.gettempdir()}, a run needs "
            f"{LEAST_FREE_BYTES / 1e6:.0f} MB: free some, or set TMPDIR to another disk"
        )
    # Connections break because the scenario says so: the warnings would tear up the live view.
    folder_of_run = tempfile.TemporaryDirectory(prefix="maille-sim-", ignore_cleanup_errors=True)
    with quiet_links(), folder_of_run as folder:
        run = _RealRun(scenario, Path(folder), show=show, measured=measured)
        before = signal.getsignal(signal.SIGINT)
        try:
            return asyncio.run(run.run())
        except (MailleError, OSError) as error:
            # What the parts say is only what follows from it.
            if _is_full(folder):
                raise _disk_full() from error
            raise
        except asyncio.CancelledError as error:
            if run.disk_full:
                raise _disk_full() from error
            # Whoever is in a hurry and presses Ctrl-C again shall not leave the folder behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if run.cut_by == signal.SIGINT:
                raise KeyboardInterrupt from error
            raise SystemExit(128 + signal.SIGTERM) from error
        finally:
            folder_of_run.cleanup()
            signal.signal(signal.SIGINT, before)


def _disk_full() -> SimulatorError:
    return SimulatorError(
        f"the disk that holds {tempfile.gettempdir()} became full while this ran, so it was ended: "
        "free some, or set TMPDIR to another disk"
    )


def _is_full(folder: str | Path) -> bool:
    return shutil.disk_usage(folder).free < _FULL_BYTES


@contextlib.contextmanager
def quiet_links() -> Iterator[None]:
    """Without the warnings of connections in this process that break."""
    logger = logging.getLogger("maille_broker.link")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def with_twin(record: RunRecord) -> RunRecord:
    """Add the virtual prediction of the same scenario to a real run's record.

    Raises:
        SimulatorError: the scenario has a language model, or the run was not `measured`.
    """
    if record.probes is None:
        raise SimulatorError("the machine was not measured before this run: run it with --twin")
    profile = replace(fitted_profile(record.probes), run_ms=dict(record.run_ms))
    predicted = run_virtually(record.scenario, profile)
    record.twin = Twin(
        quantile(predicted.latencies_ms, 0.5),
        quantile(record.latencies_ms, 0.5),
        predicted.tasks_per_s,
        record.tasks_per_s,
        profile.hop_ms,
        profile.message_ms,
    )
    return record


class _RealRun:
    """One run."""

    def __init__(self, scenario: Scenario, folder: Path, *, show: bool, measured: bool) -> None:
        self._scenario = scenario
        self._folder = folder
        self._show = show
        self._measured = measured
        self._record = RunRecord(scenario, "real")
        self._parts = Parts(folder, scenario.broker, coordinator_options(scenario))
        self._restarting = {"broker": asyncio.Lock(), "coordinator": asyncio.Lock()}
        self._undisturbed: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._serial = {gateway_of(node): node for node in scenario.nodes}
        self._nodes = RealNodes(scenario, self._parts, self._attempt)
        self._began_s = now_s()
        self._plays = False
        self._states: Counter[str] = Counter()
        self._jobs: set[asyncio.Task[None]] = set()
        self._errors: list[str] = []
        self.cut_by: signal.Signals | None = None
        """The signal that ended it before its time."""
        self.disk_full = False

    async def run(self) -> RunRecord:
        started_s = now_s()
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        if task is not None:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._cut, number, task)
            self._spawn(self._watch_disk(task))
        record = self._record
        try:
            await self._nodes.serial.prepare()
            await self._parts.start_broker()
            await self._parts.start_coordinator()
            await self._nodes.start_proxies()
            async with AsyncMesh(self._parts.http_url, mesh=MESH, timeout_s=600.0) as mesh:
                await self._add_models(mesh)
                if self._measured:
                    await self._measure(mesh)
                self._began_s = now_s()
                await self._play(mesh)
                record.bytes_by_topic = self._nodes.bytes_by_topic()
        finally:
            await self._end()
        record.marks = marks_of(self._scenario)
        if self._errors:
            record.broken = self._errors[0]
        record.took_s = now_s() - started_s
        return record

    def _cut(self, number: signal.Signals, task: "asyncio.Task[RunRecord]") -> None:
        """End in order, once: who asks again while it ends is not heard."""
        if self.cut_by is None:
            self.cut_by = number
            task.cancel()

    async def _watch_disk(self, task: "asyncio.Task[RunRecord]") -> None:
        """What a full disk does to the parts is nothing that the mesh did: end it."""
        while True:
            if _is_full(self._folder):
                self.disk_full = True
                task.cancel()
                return
            await asyncio.sleep(DISK_POLL_S)

    # --- before ----------------------------------------------------------------------------

    async def _add_models(self, mesh: AsyncMesh) -> None:
        built_in: list[bytes] = []
        for model in self._scenario.models:
            file = model.file
            if file is None and model.language:
                file = demonstration_file()
            if file is None and model.tiny:
                file = self._folder / f"{model.name}.tiny"
                kinds = {group.kind for group in self._scenario.groups}
                data = sketch_model() if NodeKindName.AVR in kinds else dense_model()
                await asyncio.to_thread(file.write_bytes, data)
            if file is None:
                file = self._folder / f"{model.name}.onnx"
                digits, _ = await asyncio.to_thread(load_digits)
                await asyncio.to_thread(file.write_bytes, digits.onnx)
            if model.tiny:
                built_in.append(await asyncio.to_thread(file.read_bytes))
            try:
                await mesh.models.add(file, model.name)
            except MailleError as error:
                raise SimulatorError(f"model {model.name} ({file}): {error}") from error
        self._nodes.serial.models = built_in

    async def _deliver(self, mesh: AsyncMesh) -> None:
        """Put the tiny models on the boards, as a person does before using them."""
        boards = [
            node
            for group in self._scenario.groups
            if group.kind in {NodeKindName.MICROPYTHON, NodeKindName.PICO}
            for node in group.ids
        ]
        # A board behind a gateway has an id that the gateway made.
        ids = {known: name for name, known in self._names.items()}
        for model in self._scenario.models:
            if model.tiny:
                await asyncio.gather(
                    *(
                        mesh.boards.deploy(model.name, ids.get(node, node), timeout_s=60.0)
                        for node in boards
                    )
                )

    async def _measure(self, mesh: AsyncMesh) -> None:
        """Measure the machine before the scenario's nodes are there."""
        file = self._folder / "probe.onnx"
        digits, _ = await asyncio.to_thread(load_digits)
        await asyncio.to_thread(file.write_bytes, digits.onnx)
        await mesh.models.add(file, probing.MODEL)
        inputs = await _inputs(mesh, probing.MODEL)
        self._record.probes = await probing.measure(mesh, self._parts, inputs)

    async def _measure_runs(self, mesh: AsyncMesh) -> None:
        """How long a run takes on the PC nodes, which nothing but a run can tell."""
        runs_ms: dict[str, list[float]] = {}
        for model in dict.fromkeys(
            load.model for load in self._scenario.loads if load.kind is not LoadKind.GENERATIONS
        ):
            inputs = await _inputs(mesh, model)
            for _ in range(PC_CALLS):
                try:
                    answer = await mesh.run_detailed(model, inputs)
                except TaskError:
                    continue
                group = self._scenario.group_of(self._names.get(answer.node, answer.node))
                if group.kind is NodeKindName.PC:
                    runs_ms.setdefault(model, []).append(answer.run_s * 1000)
        self._record.run_ms = {model: median(values) for model, values in runs_ms.items()}

    # --- what happens ----------------------------------------------------------------------

    async def _play(self, mesh: AsyncMesh) -> None:
        scenario = self._scenario
        for group in scenario.groups:
            for place, node in enumerate(group.ids):
                self._spawn(self._at(group.joins_at_s(place), self._nodes.start(node)))
        ready = asyncio.create_task(self._watch_ready(mesh))
        self._jobs.add(ready)
        with contextlib.ExitStack() as stack:
            console = Console(stderr=True, highlight=False)
            if self._show and console.is_terminal:
                live = stack.enter_context(Live(console=console, refresh_per_second=5))
                showing = asyncio.create_task(self._refresh(live))
                stack.callback(showing.cancel)
            early = [group for group in scenario.groups if group.joins_at_s(group.count) <= 0]
            if early:
                await self._until_ready({node for group in early for node in group.ids}, mesh)
                for model in self._scenario.models:
                    if model.language:
                        await wait_until_cut(mesh, model.name, len(self._scenario.nodes))
                        text = await answer(mesh, model.name, self._tokens(model.name))
                        self._undisturbed[model.name] = text
                await self._deliver(mesh)
                if self._record.probes and any(
                    group.kind is NodeKindName.PC for group in scenario.groups
                ):
                    await self._measure_runs(mesh)
                # Processes take a second to start; the scenario begins when they are there.
                joined = dict(self._record.ready_after_s)
                self._began_s = now_s()
                self._record.ready_after_s = joined
            self._plays = True
            for event in scenario.events:
                self._spawn(self._at(event.at_s, self._happen(event)))
            inputs = {
                load.model: await _inputs(mesh, load.model)
                for load in scenario.loads
                if load.kind is not LoadKind.GENERATIONS
            }
            tasks: list[asyncio.Task[None]] = []
            for arrival in arrivals(scenario):
                await self._sleep_until(arrival.at_s)
                for _ in range(arrival.count):
                    work = (
                        self._one_generation(mesh, arrival)
                        if arrival.load.kind is LoadKind.GENERATIONS
                        else self._one_task(mesh, arrival, inputs[arrival.load.model])
                    )
                    tasks.append(asyncio.create_task(work))
            await self._sleep_until(scenario.duration_s)
            if tasks:
                talks = any(load.kind is LoadKind.GENERATIONS for load in scenario.loads)
                patience_s = LANGUAGE_PATIENCE_S if talks else PATIENCE_S
                _, open_tasks = await asyncio.wait(tasks, timeout=patience_s)
                for open_task in open_tasks:
                    open_task.cancel()
                await asyncio.gather(*open_tasks, return_exceptions=True)

    async def _one_task(
        self, mesh: AsyncMesh, arrival: Arrival, inputs: dict[str, np.ndarray]
    ) -> None:
        load = arrival.load
        seen = TaskSeen(self._elapsed_s())
        self._record.tasks.append(seen)
        try:
            answer = await mesh.run_detailed(
                load.model,
                inputs,
                deadline_s=load.deadline_s or None,
                priority=load.priority,
                at_most_once=load.at_most_once,
            )
        except TaskExpired:
            seen.status = "expired"
        except TaskDead:
            seen.status = "dead"
        except TaskCancelled:
            seen.status = "cancelled"
        except TaskError:
            seen.status = "failed"
        except MailleError as error:
            self._errors.append(f"a client gave up: {error}")
            return
        else:
            seen.status = "done"
            seen.node = self._names.get(answer.node, answer.node)
            seen.attempts, seen.run_ms = answer.attempts, answer.run_s * 1000
            if self._scenario.group_of(seen.node).kind is not NodeKindName.LIGHT:
                end_s = self._elapsed_s()
                self._record.attempts.append(AttemptSeen(seen.node, end_s - answer.run_s, end_s))
        seen.ended_s = self._elapsed_s()

    def _tokens(self, model: str) -> int:
        return max(load.tokens for load in self._scenario.loads if load.model == model)

    async def _one_generation(self, mesh: AsyncMesh, arrival: Arrival) -> None:
        """Whatever happens meanwhile, the answer is the undisturbed one."""
        model = arrival.load.model
        seen = TaskSeen(self._elapsed_s())
        self._record.tasks.append(seen)
        try:
            text = await answer(mesh, model, self._tokens(model))
        except MailleError as error:
            self._errors.append(f"a generation broke off: {error}")
            seen.status = "failed"
        else:
            seen.status = "done"
            if text != self._undisturbed.get(model, text):
                seen.status = "failed"
                self._errors.append("a generation differs from the undisturbed one")
        seen.ended_s = self._elapsed_s()

    async def _happen(self, event: Happening) -> None:
        match event.kind:
            case EventKind.BROKER_RESTART:
                # One after the other, where two of them overlap.
                async with self._restarting["broker"]:
                    await self._parts.kill("broker")
                    await asyncio.sleep(event.lasts_s or 0.0)
                    await self._parts.start_broker()
            case EventKind.COORDINATOR_RESTART | EventKind.CLOCK_JUMP:
                async with self._restarting["coordinator"]:
                    await self._parts.kill("coordinator")
                    await asyncio.sleep(event.lasts_s or 0.0)
                    if event.kind is EventKind.CLOCK_JUMP:
                        self._parts.clock_offset_s += event.amount
                    await self._parts.start_coordinator()
            case _:
                await asyncio.gather(*(self._hurt(node, event) for node in event.nodes))

    async def _hurt(self, node: str, event: Happening) -> None:
        nodes, lasts_s = self._nodes, event.lasts_s
        proxy = nodes.proxy(node)
        match event.kind:
            case EventKind.KILL:
                await nodes.kill(node)
                if lasts_s is not None:
                    await asyncio.sleep(lasts_s)
                    await nodes.start(node)
            case EventKind.STOP:
                nodes.stop(node)
                if lasts_s is not None:
                    await asyncio.sleep(lasts_s)
                    nodes.resume(node)
            case EventKind.RESUME:
                nodes.resume(node)
                await self._order(node, "resume")
            case EventKind.DRAIN:
                await self._order(node, "drain")
                if lasts_s is not None:
                    await asyncio.sleep(lasts_s)
                    await self._order(node, "resume")
            case EventKind.LEAVE:
                await nodes.leave(node)
            case EventKind.PARTITION:
                proxy.cut()
                if lasts_s is not None:
                    await asyncio.sleep(lasts_s)
                    proxy.heal()
            case EventKind.FLAP:
                for _ in range(event.times):
                    proxy.reset()
                    await asyncio.sleep((lasts_s or 0.0) / event.times)
            case EventKind.BATTERY:
                nodes.read_battery(node, round(event.amount))
            case EventKind.CORRUPTION:
                nodes.serial.damage(node, event.amount)
                if lasts_s is not None:
                    await asyncio.sleep(lasts_s)
                    nodes.serial.damage(node, nodes.own_quality(node).corruption)
            case _:
                proxy.quality = _worse(event)
                if lasts_s is not None:
                    await asyncio.sleep(lasts_s)
                    proxy.quality = nodes.own_quality(node)

    async def _order(self, node: str, what: str) -> None:
        deadline_s = now_s() + 10.0
        names = {known: name for name, known in self._names.items()}
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            while now_s() < deadline_s:
                with contextlib.suppress(httpx.HTTPError):
                    url = f"{self._parts.http_url}/api/nodes/{names.get(node, node)}/{what}"
                    if (await client.post(url)).is_success:
                        return
                await asyncio.sleep(0.2)

    # --- watching --------------------------------------------------------------------------

    async def _watch_ready(self, mesh: AsyncMesh) -> None:
        """Note when each group was ready, counted from its last join."""
        waiting = {group.name: group for group in self._scenario.groups}
        record = self._record
        record.ready_after_s = dict.fromkeys(waiting, math.inf)
        began_s = self._began_s
        while waiting:
            ready = await self._ready_nodes(mesh)
            for name, group in list(waiting.items()):
                if ready >= set(group.ids):
                    if group.joins_at_s(group.count) > 0:
                        began_s = self._began_s
                    joined_s = began_s + group.joins_at_s(group.count - 1)
                    record.ready_after_s[name] = max(0.0, now_s() - joined_s)
                    del waiting[name]
            await asyncio.sleep(READY_POLL_S)

    async def _ready_nodes(self, mesh: AsyncMesh) -> set[str]:
        try:
            nodes = await mesh.nodes()
        except MailleError:
            return set()
        own = set(self._scenario.nodes)
        self._states = Counter(
            node.state for node in nodes if node.name in own or node.gateway in self._serial
        )
        ready: set[str] = set()
        for node in nodes:
            name = node.name
            if node.gateway is not None:
                # A serial node names itself; what is known of it is whose gateway it has.
                name = self._serial.get(node.gateway, name)
                self._names[node.name] = name
            if node.state == "ready":
                ready.add(name)
        return ready

    async def _until_ready(self, wanted: set[str], mesh: AsyncMesh) -> None:
        deadline_s = now_s() + 60.0
        while not await self._ready_nodes(mesh) >= wanted:
            if now_s() > deadline_s:
                raise SimulatorError(
                    f"not all of {len(wanted)} nodes were ready within 60 s: this machine may be "
                    "too busy, or the scenario too large for it"
                )
            await asyncio.sleep(READY_POLL_S)

    async def _refresh(self, live: Live) -> None:
        while True:
            elapsed_s = self._elapsed_s() if self._plays else None
            live.update(live_view(self._record, elapsed_s, self._states))
            await asyncio.sleep(0.2)

    # --- time ------------------------------------------------------------------------------

    def _elapsed_s(self) -> float:
        return now_s() - self._began_s

    async def _sleep_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._elapsed_s()))

    async def _at(self, at_s: float, work: Coroutine[None, None, None]) -> None:
        try:
            await self._sleep_until(at_s)
        except asyncio.CancelledError:
            work.close()
            raise
        await work

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._finished)

    def _finished(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        error = None if job.cancelled() else job.exception()
        if error is not None:
            self._errors.append(f"{type(error).__name__}: {error}")

    def _attempt(self, node: str, begin_s: float, end_s: float) -> None:
        began_s = self._began_s
        self._record.attempts.append(AttemptSeen(node, begin_s - began_s, end_s - began_s))

    async def _end(self) -> None:
        for job in list(self._jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._nodes.close()
        await self._parts.close()


async def _inputs(mesh: AsyncMesh, model: str) -> dict[str, np.ndarray]:
    """Zeros in the shape that a model takes."""
    signature = await mesh.signature(model)
    return {
        spec.name: np.zeros(
            [size if isinstance(size, int) else 1 for size in spec.shape], dtype=spec.dtype
        )
        for spec in signature.inputs
    }


def _worse(event: Happening) -> LinkQuality:
    match event.kind:
        case EventKind.LATENCY:
            return LinkQuality(latency_ms=event.amount, jitter_ms=event.jitter_ms)
        case EventKind.LOSS:
            return LinkQuality(loss=event.amount)
        case EventKind.BANDWIDTH:
            return LinkQuality(bytes_per_s=event.amount)
        case _:
            return LinkQuality(duplicate=event.amount)
