"""What must hold of a language model's cores at any time, and once the mesh is at rest."""

from collections.abc import Collection, Iterable

from maille_coordinator.language.state import ModelState
from maille_node.language.slices import MAX_PIPELINES, MAX_STAGES
from maille_node.language.waiting import MAX_REMEMBERED, MAX_WAITING
from maille_simulator.virtual.coordinator import VirtualCoordinator
from maille_simulator.virtual.language.run import LanguageRun
from maille_simulator.virtual.language.service import VirtualLanguage
from maille_simulator.virtual.node import VirtualNode
from maille_simulator.virtual.violation import Violation

FREED = "what ended generations took is freed"
BOUNDED = "memory of the language cores is bounded"


def check_memory(
    run: LanguageRun, coordinator: VirtualCoordinator, nodes: Iterable[VirtualNode]
) -> None:
    """Violation if a core keeps more than its limits allow; at any time."""
    language = coordinator.language
    if language is not None and coordinator.alive:
        _check_coordinator(run, language)
    for node in nodes:
        if node.stages is not None and node.alive:
            _check_node(node.identity, node.stages.core.sizes(), node.stages.slices.cache_count)


def _check_coordinator(run: LanguageRun, language: VirtualLanguage) -> None:
    sizes = language.core.sizes()
    asked = len(run.plan.generations)
    bounds = {
        "sessions": asked,
        # Each ring has the one of its first round.
        "handles": sizes["sessions"] + sizes["pipelines"],
        "pipelines": 2,
        "kept": 2 * asked,
        # A ring is torn down and built anew, at the worst, for each fault; each has a stage a node.
        "leftovers": 16 * sizes["nodes"],
        "timers": 8 * (sizes["handles"] + sizes["closing"] + sizes["nodes"] + sizes["pipelines"])
        + 32,
        "pings": 8 * sizes["nodes"],
    }
    _hold_to("the coordinator", sizes, bounds)


def _check_node(node: str, sizes: dict[str, int], caches: int) -> None:
    if caches > sizes["sessions"] + sizes["kept"]:
        text = f"{node} has {caches} caches for {sizes['sessions']} sessions, {sizes['kept']} kept"
        raise Violation(FREED, text)
    bounds = {
        "pipelines": MAX_PIPELINES,
        "stages": MAX_STAGES,
        "waiting": sizes["pipelines"] * MAX_WAITING,
        "remembered": MAX_REMEMBERED,
        "overdrawn_bytes": 0,
    }
    _hold_to(node, sizes, bounds)


def _hold_to(whose: str, sizes: dict[str, int], bounds: dict[str, int]) -> None:
    for name, bound in bounds.items():
        if sizes[name] > bound:
            text = f"{whose} has {sizes[name]} {name}, at most {bound} are allowed: {sizes}"
            raise Violation(BOUNDED, text)


def check_rest(
    run: LanguageRun,
    coordinator: VirtualCoordinator,
    nodes: Iterable[VirtualNode],
    twinned: Collection[str],
) -> None:
    """Violation if anything is left of what has ended; long after the last trouble.

    Of two processes with one id either may say that a stage is gone which the other one holds.
    """
    nodes = list(nodes)
    check_memory(run, coordinator, nodes)
    language = coordinator.language
    if language is None:
        raise Violation("the model is ready in calm weather", "no coordinator serves it")
    core = language.core
    model = core.models.get(run.plan.model.key)
    ring = None if model is None else model.pipeline
    if model is None or ring is None or model.state is not ModelState.READY:
        state = "unknown" if model is None else f"{model.state}: {model.text}"
        raise Violation("the model is ready in calm weather", f"it is {state}")
    sizes = core.sizes()
    for name in ("sessions", "handles", "queued", "early", "closing", "leftovers"):
        if sizes[name]:
            raise Violation(FREED, f"the coordinator still has {sizes[name]} {name}: {sizes}")
    open_ones = [name for name, kept in run.journal.sessions.items() if kept.end is None]
    if open_ones:
        raise Violation(FREED, f"the journal still has {', '.join(open_ones)} open")
    if set(run.journal.held) - set(core.pipelines):
        text = f"the journal has stages of {set(run.journal.held)}, there is {set(core.pipelines)}"
        raise Violation(FREED, text)
    wanted = {(name, stage) for stage, slot in enumerate(ring.slots) for name in slot.loads}
    for node in nodes:
        if node.stages is None or not node.is_up or node.stopped:
            continue
        found = node.stages.core.sizes()
        for name in ("sessions", "waiting", "queued_bytes"):
            if found[name]:
                raise Violation(FREED, f"{node.identity} still has {found[name]} {name}: {found}")
        stages = sum(name == node.identity for name, _ in wanted)
        if found["stages"] != stages and node.identity not in twinned:
            text = f"{node.identity} has {found['stages']} stages, the ring has {stages} there"
            raise Violation(FREED, text)
