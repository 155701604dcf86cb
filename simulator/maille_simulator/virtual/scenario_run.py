"""A scenario in virtual time."""

import time
from dataclasses import dataclass, field
from random import Random

from maille.client_events import TaskSettings
from maille_protocol import NodeState, TaskFlag
from maille_simulator.report.record import AttemptSeen, Mark, RunRecord, TaskSeen
from maille_simulator.scenario.load import arrivals
from maille_simulator.scenario.values import (
    EventKind,
    Happening,
    LinkQuality,
    LoadKind,
    NodeGroup,
    NodeKindName,
    Scenario,
)
from maille_simulator.virtual.broker import PartyLink, Weather
from maille_simulator.virtual.chaos import TENSOR_HEAD
from maille_simulator.virtual.faults import Fault, FaultKind
from maille_simulator.virtual.language.scenario import generations_seen, language_plan_of
from maille_simulator.virtual.plan import Burst, RunPlan
from maille_simulator.virtual.profile import NodeProfile, VirtualModel
from maille_simulator.virtual.recorder import Recorder
from maille_simulator.virtual.violation import Violation
from maille_simulator.virtual.world import World

CLIENT = "load"
SERIAL_FRAME_BYTES = 64
RESTART_MS = 1500.0
"""A broker or coordinator process that was killed is back after this, as measured."""


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """What was measured of the machine on which a scenario would run for real."""

    hop_ms: float = 0.3
    """From one process over the broker into another."""
    hop_spread_ms: float = 0.1
    overhead_ms: float = 0.1
    """A run beside the model's own time, on the node."""
    run_ms: dict[str, float] = field(default_factory=dict)
    """By model, on PC nodes, where it was measured; else as the scenario says."""
    coordinator_round_ms: float = 0.1
    message_ms: float = 0.0
    """What the mesh's processes on this machine take for one message, one after the other."""
    timer_ms: float = 0.0
    """How much later than its latency says a message comes over a link, each way."""


def run_virtually(scenario: Scenario, profile: MachineProfile | None = None) -> RunRecord:
    """Play a scenario in virtual time; SimulatorError if it has several language models."""
    started_s = time.perf_counter()
    recorder = Recorder()
    profile = profile or MachineProfile()
    plan = plan_of(scenario, profile)
    world = World(plan, recorder)
    for group in scenario.groups:
        link = party_link(group.link, profile.timer_ms)
        if link is not None:
            for node in group.ids:
                key = world.party(node), node
                world.broker.links[key] = world.broker.own_links[key] = link
    record = RunRecord(scenario, "virtual")
    watch = _ReadyWatch(world, scenario)
    watch.look()
    try:
        world.play()
    except Violation as violation:
        record.broken = str(violation)
    record.marks = marks_of(scenario)
    record.ready_after_s = watch.ready_after_s
    record.bytes_by_topic = dict(world.broker.bytes_by_topic)
    record.attempts = [
        AttemptSeen(node, begin_ms / 1000, end_ms / 1000)
        for node, _, begin_ms, end_ms in recorder.attempts
    ]
    for promise in world.ledger.tasks.values():
        seen = TaskSeen(promise.submitted_ms / 1000)
        if promise.outcome is not None:
            outcome = promise.outcome
            seen.ended_s = promise.delivered_ms / 1000
            seen.status = outcome.status.name.lower()
            seen.node, seen.attempts = outcome.node, outcome.attempts
            seen.run_ms = outcome.run_us / 1000
        record.tasks.append(seen)
    if world.language is not None:
        record.tasks += generations_seen(world.language.readers)
    record.took_s = time.perf_counter() - started_s
    return record


def marks_of(scenario: Scenario) -> list[Mark]:
    """The scenario's events as a report marks them."""
    return [
        Mark(
            event.at_s,
            f"{event.kind.value} {', '.join(event.nodes[:4])}".strip()
            + (f" and {len(event.nodes) - 4} more" if len(event.nodes) > 4 else ""),
            event.nodes,
            None if event.lasts_s is None else event.at_s + event.lasts_s,
        )
        for event in scenario.events
    ]


def plan_of(scenario: Scenario, profile: MachineProfile) -> RunPlan:
    """A scenario as a virtual run."""
    bursts: list[Burst] = []
    number = 0
    for arrival in arrivals(scenario):
        load = arrival.load
        if load.kind is LoadKind.GENERATIONS:
            continue
        tasks = []
        for _ in range(arrival.count):
            number += 1
            task_id = number.to_bytes(16, "big")
            tasks.append((task_id, TENSOR_HEAD + task_id))
        settings = TaskSettings(
            load.model,
            priority=load.priority,
            deadline_ms=round(load.deadline_s * 1000),
            max_attempts=load.max_attempts,
            flags=TaskFlag.AT_MOST_ONCE if load.at_most_once else 0,
        )
        bursts.append(Burst(arrival.at_s * 1000, CLIENT, settings, tuple(tasks)))
    weather = Weather(
        profile.hop_ms,
        profile.hop_ms + profile.hop_spread_ms,
        message_ms=profile.message_ms,
    )
    end_ms = scenario.duration_s * 1000
    language = language_plan_of(scenario)
    return RunPlan(
        scenario.seed,
        tuple(
            (node, _machine(group, profile), group.joins_at_s(place) * 1000)
            for group in scenario.groups
            for place, node in enumerate(group.ids)
        ),
        tuple(
            VirtualModel(
                model.name,
                model.run_ms,
                model.load_ms,
                spread=0.0,
            )
            for model in scenario.models
            if not model.language
        ),
        (CLIENT,),
        tuple(bursts),
        (),
        tuple(
            fault
            for event in scenario.events
            for fault in _faults(event, scenario, profile.timer_ms)
        ),
        weather,
        weather,
        keepalive_ms=22_500.0,
        healed_ms=end_ms,
        patience_ms=60_000.0 if language is None else 150_000.0,
        coordinator_round_ms=profile.coordinator_round_ms,
        validate_every_ms=max(500.0, len(scenario.nodes) * 2.0),
        language=language,
        heals=False,
    )


def _machine(group: NodeGroup, profile: MachineProfile) -> NodeProfile:
    return NodeProfile(
        slots=group.slots,
        cores=1,
        workers=group.workers,
        max_batch=64,
        speed=group.speed,
        overhead_ms=profile.overhead_ms,
        holds_slices=group.kind is NodeKindName.PC,
        measured_run_ms=tuple(profile.run_ms.items()) if group.kind is NodeKindName.PC else (),
    )


def party_link(link: LinkQuality, timer_ms: float = 0.0) -> PartyLink | None:
    """A node's way on a machine whose timers are so late, None if it is as good as any."""
    if link == LinkQuality():
        return None
    damaged = 1 - (1 - link.corruption) ** SERIAL_FRAME_BYTES
    return PartyLink(
        link.latency_ms + timer_ms,
        link.jitter_ms,
        max(link.loss, damaged),
        link.bytes_per_s,
        link.duplicate,
    )


_SAME = {
    EventKind.KILL: FaultKind.KILL,
    EventKind.STOP: FaultKind.STOP,
    EventKind.DRAIN: FaultKind.DRAIN,
    EventKind.LEAVE: FaultKind.LEAVE,
    EventKind.PARTITION: FaultKind.PARTITION,
}


def _faults(event: Happening, scenario: Scenario, timer_ms: float) -> list[Fault]:
    at_ms = event.at_s * 1000
    lasts_ms = float("inf") if event.lasts_s is None else event.lasts_s * 1000
    short_ms = RESTART_MS if event.lasts_s is None else lasts_ms
    random = Random(f"{scenario.seed}/{event.at_s}/{event.kind.value}")
    match event.kind:
        case EventKind.BROKER_RESTART:
            return [Fault(at_ms, FaultKind.BROKER_RESTART, "", short_ms, 1.0)]
        case EventKind.COORDINATOR_RESTART:
            return [Fault(at_ms, FaultKind.COORDINATOR_KILL, "", short_ms, 1.0)]
        case EventKind.CLOCK_JUMP:
            jump = Fault(at_ms, FaultKind.CLOCK_JUMP, "", 0.0, _jump(event.amount))
            return [jump, Fault(at_ms, FaultKind.COORDINATOR_KILL, "", RESTART_MS, 1.0)]
        case EventKind.RESUME:
            return [Fault(at_ms, FaultKind.RESUME, node, 0.0, 0.0) for node in event.nodes]
        case EventKind.FLAP:
            every_ms = (0.0 if lasts_ms == float("inf") else lasts_ms) / event.times
            return [
                Fault(at_ms + turn * every_ms, FaultKind.FLAP, node, 0.0, 0.0)
                for turn in range(event.times)
                for node in event.nodes
            ]
        case EventKind.BATTERY:
            return [
                Fault(at_ms, FaultKind.BATTERY, node, 0.0, event.amount / 100)
                for node in event.nodes
            ]
        case kind if kind in _SAME:
            # A partition of a real network stalls: TCP sends again what was not acknowledged.
            return [Fault(at_ms, _SAME[kind], node, lasts_ms, 1.0) for node in event.nodes]
        case _:
            quality = _quality(event)
            return [
                Fault(
                    at_ms,
                    FaultKind.LINK,
                    node,
                    lasts_ms,
                    random.random(),
                    party_link(quality, timer_ms),
                )
                for node in event.nodes
            ]


def _jump(by_s: float) -> float:
    """In ms, and never what would be a share."""
    return by_s * 1000 if by_s < 0 else max(1.001, by_s * 1000)


def _quality(event: Happening) -> LinkQuality:
    match event.kind:
        case EventKind.LATENCY:
            return LinkQuality(latency_ms=event.amount, jitter_ms=event.jitter_ms)
        case EventKind.LOSS:
            return LinkQuality(loss=event.amount)
        case EventKind.BANDWIDTH:
            return LinkQuality(bytes_per_s=event.amount)
        case EventKind.DUPLICATE:
            return LinkQuality(duplicate=event.amount)
        case _:
            return LinkQuality(corruption=event.amount)


class _ReadyWatch:
    """Notes when all nodes of a group are ready for the first time."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self.ready_after_s = {group.name: float("inf") for group in scenario.groups}
        self._world = world
        self._waiting = {group.name: group for group in scenario.groups}

    def look(self) -> None:
        """Look now, and again until all were seen."""
        registry = self._world.coordinator.core.registry
        now_s = self._world.schedule.now_ms / 1000
        for name, group in list(self._waiting.items()):
            records = [registry.get(node) for node in group.ids]
            if all(record is not None and record.state is NodeState.READY for record in records):
                joined_s = group.joins_at_s(group.count - 1)
                self.ready_after_s[name] = max(0.0, now_s - joined_s)
                del self._waiting[name]
        if self._waiting:
            self._world.schedule.after(50.0, self.look)
