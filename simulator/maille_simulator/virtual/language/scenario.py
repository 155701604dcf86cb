"""A scenario's language model in virtual time."""

from maille_coordinator.language.state import LanguageLimits
from maille_simulator.errors import SimulatorError
from maille_simulator.report.record import TaskSeen
from maille_simulator.scenario.load import arrivals
from maille_simulator.scenario.values import LoadKind, Scenario
from maille_simulator.virtual.language.arithmetic import ArithmeticModel
from maille_simulator.virtual.language.plan import Generation, LanguagePlan
from maille_simulator.virtual.language.readers import Readers

QUESTION = tuple(range(100, 120))
"""The one question that all generations of a scenario ask, as tokens."""

MEMORY_BYTES = 4_000_000_000
READ_MS = 300.0
"""As the demonstration's file takes, note 28."""


def language_plan_of(scenario: Scenario) -> LanguagePlan | None:
    """What a scenario asks of its language model, None without one; SimulatorError for several."""
    models = [model for model in scenario.models if model.language]
    if not models:
        return None
    if len(models) > 1:
        raise SimulatorError(
            f"{scenario.name} has {len(models)} language models, virtual time plays one: leave "
            "--virtual out, or make a scenario of each"
        )
    generations: list[Generation] = []
    for arrival in arrivals(scenario):
        if arrival.load.kind is LoadKind.GENERATIONS:
            name = f"g{len(generations) + 1}"
            at_ms = arrival.at_s * 1000
            generations.append(Generation(at_ms, name, QUESTION, arrival.load.tokens))
    # Layers, sizes and times as of the demonstration model on one thread: 8 ms a token.
    model = ArithmeticModel(
        models[0].name,
        layer_count=30,
        context_tokens=2048,
        layer_bytes=3_000_000,
        end_bytes=15_000_000,
        cache_bytes=1536,
        layer_us=267,
    )
    return LanguagePlan(
        model,
        LanguageLimits(least_nodes=scenario.language_nodes),
        tuple(generations),
        memory_bytes=MEMORY_BYTES,
        read_ms=READ_MS,
    )


def generations_seen(readers: Readers) -> list[TaskSeen]:
    """Each generation as a report shows it."""
    found = []
    for reading in readers.readings.values():
        seen = TaskSeen(reading.generation.at_ms / 1000)
        if reading.finish:
            seen.ended_s = reading.ended_ms / 1000
            seen.status = "failed" if reading.finish == "error" else "done"
        found.append(seen)
    return found
