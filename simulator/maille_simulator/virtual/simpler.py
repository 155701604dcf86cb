"""Smaller and simpler plans than a given one: what the shrinker tries."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from maille_simulator.virtual.broker import Weather
from maille_simulator.virtual.faults import Fault, FaultKind
from maille_simulator.virtual.language.plan import Generation
from maille_simulator.virtual.plan import Burst, RunPlan
from maille_simulator.virtual.profile import NodeProfile

MOVED_MS = 400.0
"""A fault is tried this much earlier or later."""

PLAIN_KILL = 1.0
"""The amount of a coordinator's death between two rounds."""

_SIMPLER_KINDS = {
    FaultKind.LEAVE: (FaultKind.KILL,),
    FaultKind.TWIN: (FaultKind.KILL,),
    FaultKind.SICK: (FaultKind.KILL,),
    FaultKind.DRAIN: (FaultKind.KILL,),
    FaultKind.PARTITION: (FaultKind.FLAP, FaultKind.KILL),
    FaultKind.STOP: (FaultKind.KILL,),
    FaultKind.KILL: (FaultKind.FLAP,),
    FaultKind.COORDINATOR_STOP: (FaultKind.COORDINATOR_KILL,),
    FaultKind.CLOCK_JUMP: (FaultKind.COORDINATOR_KILL,),
    FaultKind.STORM: (FaultKind.BROKER_RESTART,),
}
"""What a node or the mesh suffers every day, for what is seldom."""


def with_bursts(plan: RunPlan, bursts: Sequence[Burst]) -> RunPlan:
    """The plan with these bursts; withdrawals of other tasks go."""
    ids = {task_id for burst in bursts for task_id, _ in burst.tasks}
    withdrawals = tuple(
        replace(one, task_ids=left)
        for one in plan.withdrawals
        if (left := tuple(task_id for task_id in one.task_ids if task_id in ids))
    )
    return replace(plan, bursts=tuple(bursts), withdrawals=withdrawals)


def with_tasks(plan: RunPlan, task_ids: Sequence[bytes]) -> RunPlan:
    """The plan with these tasks; bursts that were left empty go."""
    ids = set(task_ids)
    bursts = tuple(
        replace(burst, tasks=left)
        for burst in plan.bursts
        if (left := tuple(task for task in burst.tasks if task[0] in ids))
    )
    return with_bursts(plan, bursts)


def with_generations(plan: RunPlan, generations: Sequence[Generation]) -> RunPlan:
    """The plan with these generations."""
    if plan.language is None:
        return plan
    return replace(plan, language=replace(plan.language, generations=tuple(generations)))


def with_nodes(plan: RunPlan, nodes: Sequence[tuple[str, NodeProfile, float]]) -> RunPlan:
    """The plan with these nodes; what happens to others goes."""
    gone = {node for node, _, _ in plan.nodes} - {node for node, _, _ in nodes}
    faults = tuple(fault for fault in plan.faults if fault.target not in gone)
    return replace(plan, nodes=tuple(nodes), faults=faults)


def simpler_faults(fault: Fault) -> Iterator[Fault]:
    """The fault as a simpler kind, and at rounder times."""
    for kind in _SIMPLER_KINDS.get(fault.kind, ()):
        yield replace(fault, kind=kind, amount=_plain(kind, fault.amount))
    yield replace(fault, amount=_plain(fault.kind, fault.amount))
    for step_ms in (1000.0, 100.0):
        yield replace(
            fault,
            at_ms=round(fault.at_ms / step_ms) * step_ms,
            lasts_ms=max(step_ms, round(fault.lasts_ms / step_ms) * step_ms),
        )


def _plain(kind: FaultKind, amount: float) -> float:
    return PLAIN_KILL if kind is FaultKind.COORDINATOR_KILL else round(amount, 1)


def moved(fault: Fault, random: Random) -> Fault:
    """The fault a little earlier or later."""
    return replace(fault, at_ms=max(0.0, fault.at_ms + random.uniform(-MOVED_MS, MOVED_MS)))


def calmer_weathers(weather: Weather) -> Iterator[Weather]:
    """Better weather, the best first."""
    yield Weather()
    yield replace(weather, loss=0.0, duplicate=0.0, late=0.0, lost_will=0.0)
    yield replace(weather, loss=0.0)
    yield replace(weather, duplicate=0.0)
    yield replace(weather, late=0.0)
    yield replace(weather, lost_will=0.0)
