"""The chaos scenario: twenty nodes, five hundred tasks, every kind of trouble, all by one seed."""

from dataclasses import replace
from random import Random

import numpy as np

from maille.client_events import TaskSettings
from maille_protocol import Reference, TaskFlag
from maille_protocol.contents import Content
from maille_protocol.tensors import encode_tensors
from maille_simulator.virtual.broker import Weather
from maille_simulator.virtual.faults import random_faults
from maille_simulator.virtual.plan import Burst, RunPlan, Withdrawal
from maille_simulator.virtual.profile import NodeProfile, VirtualModel
from maille_simulator.virtual.world import World

NODES = 20
TASKS = 500
LOAD_MS = 10_000.0
HEALED_MS = LOAD_MS + 3000.0
"""When all trouble is over."""

MOST_CALLS = 50_000
"""Some ten times what a run takes."""

MODELS = (
    VirtualModel("short", 4.0),
    VirtualModel("middle", 60.0),
    VirtualModel("long", 1800.0, load_ms=200.0),
    VirtualModel("broken", 5.0, broken=True),
)


def chaos_plan(seed: int, *, nodes: int = NODES, tasks: int = TASKS) -> RunPlan:
    """The plan of one seed."""
    random = Random(f"chaos/{seed}")
    names = tuple(f"n{number:02d}" for number in range(nodes))
    clients = ("alice", "bob")
    weather = random_weather(random)
    bursts, withdrawals = some_load(random, clients, names, tasks)
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
        most_calls=MOST_CALLS,
    )


def random_weather(random: Random) -> Weather:
    """What a run's network does to messages all the time."""
    return Weather(
        most_ms=random.choice((0.5, 2.0, 20.0)),
        loss=random.choice((0.0, 0.005, 0.03)),
        duplicate=random.choice((0.0, 0.01, 0.05)),
        late=random.choice((0.0, 0.003, 0.02)),
        late_most_ms=random.choice((50.0, 1500.0, 5000.0)),
        in_order=random.random() < 0.5,
        lost_will=random.choice((0.0, 0.5, 1.0)),
    )


def storm_of(weather: Weather) -> Weather:
    """What it does in a storm."""
    return replace(weather, loss=0.2, duplicate=0.2, late=0.1, in_order=False)


def run_chaos(seed: int) -> None:
    """One seed; Violation if a promise breaks."""
    World(chaos_plan(seed)).run()


def _machine(random: Random) -> NodeProfile:
    cores = random.choice((1, 2, 4))
    return NodeProfile(
        slots=random.choice((1, 2, 8, 32)),
        cores=cores,
        workers=cores,
        max_batch=random.choice((1, 16)),
        speed=random.choice((0.2, 1.0, 1.0, 3.0)),
    )


def some_load(
    random: Random, clients: tuple[str, ...], nodes: tuple[str, ...], tasks: int
) -> tuple[tuple[Burst, ...], tuple[Withdrawal, ...]]:
    """So many tasks in bursts, and which of them are withdrawn."""
    bursts: list[Burst] = []
    withdrawals: list[Withdrawal] = []
    number = 0
    while number < tasks:
        count = min(tasks - number, random.choice((1, 2, 5, 20, 40)))
        client = random.choice(clients)
        at_ms = random.uniform(300.0, LOAD_MS)
        ids = [(number + place + 1).to_bytes(16, "big") for place in range(count)]
        bursts.append(
            Burst(
                at_ms,
                client,
                _settings(random, nodes),
                tuple((task_id, _content(random, task_id)) for task_id in ids),
            )
        )
        if random.random() < 0.06:
            chosen = tuple(random.sample(ids, random.randint(1, count)))
            withdrawals.append(Withdrawal(at_ms + random.uniform(0.0, 2000.0), client, chosen))
        number += count
    return tuple(bursts), tuple(withdrawals)


def _settings(random: Random, nodes: tuple[str, ...]) -> TaskSettings:
    model = random.choices(("short", "middle", "long", "broken"), (60, 30, 4, 2))[0]
    targeted = model != "long" and random.random() < 0.03
    return TaskSettings(
        model,
        priority=random.choice((3, 5, 5, 7)),
        deadline_ms=random.choice((0, 0, 0, 3000, 15_000)),
        max_attempts=random.choice((0, 0, 3, 20)),
        flags=TaskFlag.AT_MOST_ONCE if random.random() < 0.1 else 0,
        target=random.choice(nodes) if targeted else None,
    )


def _content(random: Random, task_id: bytes) -> Content:
    if random.random() < 0.02:
        return Reference(task_id * 2, 100_000)
    return TENSOR_HEAD + task_id


def _tensor_head() -> bytes:
    encoded = encode_tensors({"x": np.zeros(16, np.uint8)})
    return encoded[:-16]


TENSOR_HEAD = _tensor_head()
"""An encoded tensor of 16 bytes without them: a task's id makes it whole and shows whose it is."""
