"""The chaos scenario of language models: six nodes, a dozen answers, every kind of trouble."""

from random import Random

from maille_coordinator.language.state import LanguageLimits
from maille_coordinator.placement.values import STAGE_OVERHEAD_BYTES
from maille_simulator.virtual.chaos import (
    HEALED_MS,
    LOAD_MS,
    MODELS,
    random_weather,
    some_load,
    storm_of,
)
from maille_simulator.virtual.faults import random_faults
from maille_simulator.virtual.language.arithmetic import ArithmeticModel
from maille_simulator.virtual.language.plan import Generation, LanguagePlan
from maille_simulator.virtual.plan import RunPlan
from maille_simulator.virtual.profile import NodeProfile

NODES = 6
GENERATIONS = 9
CALM_GENERATIONS = 3
TASKS = 20
WIDE = 8192
"""Values of one position: more than one position takes several publishes."""

MOST_CALLS = 200_000
"""Some ten times what a run takes."""

FREED_MS = 150_000.0
"""In calm weather, all that generations took is free after this: a stage waits two minutes."""


def language_chaos_plan(seed: int) -> RunPlan:
    """The plan of one seed."""
    random = Random(f"language chaos/{seed}")
    names = tuple(f"n{number}" for number in range(NODES))
    clients = ("alice",)
    weather = random_weather(random)
    bursts, withdrawals = some_load(random, clients, names, TASKS)
    model = ArithmeticModel(
        layer_us=random.choice((300, 1000, 3000)),
        hidden=Random(f"language chaos/{seed}/hidden").choice((2, 2, 2, 2, WIDE)),
    )
    limits = LanguageLimits(
        context_tokens=64,
        sessions=3,
        copies=random.choice((1, 1, 2)),
        least_nodes=random.choice((1, 3)),
    )
    language = LanguagePlan(
        model,
        limits,
        _generations(random),
        memory_bytes=STAGE_OVERHEAD_BYTES + random.choice((7, 7, 20)) * model.layer_bytes,
    )
    return RunPlan(
        seed,
        tuple((name, _machine(random), random.uniform(0.0, 300.0)) for name in names),
        MODELS,
        clients,
        bursts,
        withdrawals,
        random_faults(random, names, clients, LOAD_MS),
        weather,
        storm_of(weather),
        keepalive_ms=random.choice((1500.0, 5000.0, 22_500.0)),
        healed_ms=HEALED_MS,
        calm_ms=FREED_MS,
        most_calls=MOST_CALLS,
        language=language,
    )


def _machine(random: Random) -> NodeProfile:
    return NodeProfile(speed=random.choice((0.5, 1.0, 1.0, 2.0)))


def _generations(random: Random) -> tuple[Generation, ...]:
    story = [random.randrange(3, 900) for _ in range(40)]
    found = []
    for number in range(GENERATIONS + CALM_GENERATIONS):
        calm = number >= GENERATIONS
        at_ms = HEALED_MS + 6000.0 if calm else 0.0
        at_ms += random.uniform(0.0, 4000.0 if calm else LOAD_MS)
        prompt = story[: random.choice((1, 4, 12, 30))]
        if random.random() < 0.5:
            prompt.append(random.randrange(3, 900))
        withdrawn = not calm and random.random() < 0.15
        found.append(
            Generation(
                at_ms,
                f"g{number}",
                tuple(prompt),
                random.choice((4, 20, 40)),
                seed=random.randrange(1 << 16),
                penalty=random.random() < 0.3,
                end_tokens=(random.randrange(997), 5) if random.random() < 0.3 else (),
                withdrawn_ms=at_ms + random.uniform(0.0, 1500.0) if withdrawn else None,
            )
        )
    return tuple(found)
