"""When the tasks of a scenario come; the same in virtual and in real time."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from maille_simulator.scenario.values import Load, LoadKind, Scenario


@dataclass(frozen=True, slots=True)
class Arrival:
    """Tasks of one load that come at one moment."""

    at_s: float
    load: Load
    count: int


def arrivals(scenario: Scenario) -> list[Arrival]:
    """All tasks in order of time; the same seed gives the same."""
    found: list[Arrival] = []
    for number, load in enumerate(scenario.loads):
        random = Random(f"{scenario.seed}/load/{number}")
        found += [Arrival(at_s, load, count) for at_s, count in _moments(load, random)]
    return sorted(found, key=lambda arrival: arrival.at_s)


def _moments(load: Load, random: Random) -> Iterator[tuple[float, int]]:
    at_s = load.from_s
    match load.kind:
        case LoadKind.CONSTANT:
            count = round((load.to_s - load.from_s) * load.per_s)
            for number in range(count):
                yield load.from_s + number / load.per_s, 1
        case LoadKind.POISSON:
            while (at_s := at_s + random.expovariate(load.per_s)) < load.to_s:
                yield at_s, 1
        case LoadKind.BURSTS:
            while at_s < load.to_s:
                yield at_s, load.burst
                at_s += load.every_s
        case LoadKind.GENERATIONS:
            while at_s < load.to_s:
                yield at_s, 1
                at_s += load.every_s
        case LoadKind.TRACE:
            for moment_s, count in load.trace:
                if load.from_s <= moment_s < load.to_s and count > 0:
                    yield moment_s, count
