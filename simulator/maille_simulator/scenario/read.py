"""From a checked document to a scenario, with what a schema cannot say checked here."""

from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from maille_simulator.errors import ScenarioNotFound
from maille_simulator.scenario.document import Document, Place, read_document
from maille_simulator.scenario.values import (
    OF_THE_MESH,
    EventKind,
    Expectations,
    Happening,
    LinkQuality,
    Load,
    LoadKind,
    ModelUse,
    NodeGroup,
    NodeKindName,
    Scenario,
)

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
"""Where the ready ones lie in a checkout."""

PACKAGED = Path(__file__).resolve().parents[1] / "ready"
"""Where they lie in an installed package."""

MOST_TASKS = 5_000_000
"""Of one load: each takes some hundred bytes for as long as the run lasts."""

LONGEST_S = 7 * 86_400.0

_AMOUNTS = {
    EventKind.LATENCY: "latency",
    EventKind.LOSS: "share",
    EventKind.DUPLICATE: "share",
    EventKind.CORRUPTION: "share",
    EventKind.BANDWIDTH: "bytes_per_s",
    EventKind.BATTERY: "percent",
    EventKind.CLOCK_JUMP: "seconds",
}
"""The key that says how much."""


def ready_scenarios() -> dict[str, Path]:
    """The scenarios that come with Maille, by name."""
    folder = SCENARIOS if SCENARIOS.is_dir() else PACKAGED
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_scenario(name: str) -> Path:
    """A file, or a ready scenario by its name; ScenarioNotFound."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.exists():
        return path
    ready = ready_scenarios()
    if name in ready:
        return ready[name]
    near = get_close_matches(name, list(ready), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"ready ones are {', '.join(ready)}"
    raise ScenarioNotFound(f"no scenario is called {name!r}: {hint}")


def read_scenario(path: Path) -> Scenario:
    """Read a scenario.

    Raises:
        ScenarioError: it cannot be meant as it is written; names the line.
        ScenarioNotFound: the file cannot be read.
    """
    document = read_document(path)
    value = document.value
    duration_s = seconds(value["duration"])
    if duration_s <= 0:
        raise document.error(("duration",), "a scenario has to last longer than no time")
    if duration_s > LONGEST_S:
        raise document.error(("duration",), "a scenario lasts at most seven days")
    models = tuple(
        _model(document, ("models", place), item)
        for place, item in enumerate(value.get("models", [{"name": "digits"}]))
    )
    groups = tuple(
        _group(document, ("nodes", place), item, duration_s)
        for place, item in enumerate(value["nodes"])
    )
    ids: set[str] = set()
    for place, group in enumerate(groups):
        if ids.intersection(group.ids):
            raise document.error(("nodes", place, "name"), f"two nodes are called {group.name!r}")
        ids.update(group.ids)
    loads = tuple(
        _load(document, ("load", place), item, duration_s, [model.name for model in models])
        for place, item in enumerate(value["load"])
    )
    events = tuple(
        _event(document, ("events", place), item, duration_s, groups)
        for place, item in enumerate(value.get("events", ()))
    )
    return Scenario(
        value["name"],
        value.get("description", ""),
        duration_s,
        value.get("seed", 0),
        value.get("broker", "mosquitto"),
        models,
        groups,
        loads,
        tuple(sorted(events, key=lambda event: event.at_s)),
        _expectations(value.get("expect", {})),
    )


def shortened(scenario: Scenario, duration_s: float) -> Scenario:
    """The same scenario in less time: what lies at its half is at its half again.

    What lasts a while keeps lasting as long, within half of the new duration: nodes notice a loss
    after the same seconds. The load keeps its rates.
    """
    share = duration_s / scenario.duration_s
    if share >= 1:
        return scenario
    most_s = duration_s / 2

    def lasting(value_s: float | None) -> float | None:
        return None if value_s is None else min(value_s, most_s)

    return replace(
        scenario,
        duration_s=duration_s,
        loads=tuple(
            replace(
                load,
                from_s=load.from_s * share,
                to_s=load.to_s * share,
                every_s=load.every_s * share,
                trace=tuple((at_s * share, count) for at_s, count in load.trace),
            )
            for load in scenario.loads
        ),
        events=tuple(
            replace(event, at_s=event.at_s * share, lasts_s=lasting(event.lasts_s))
            for event in scenario.events
        ),
        groups=tuple(replace(group, join_s=group.join_s * share) for group in scenario.groups),
    )


def seconds(value: float | str) -> float:
    """A time of the schema in seconds."""
    if isinstance(value, int | float):
        return float(value)
    number = value.rstrip("mhs")
    return float(number) * UNITS_S[value[len(number) :]]


def _model(document: Document, place: Place, item: dict[str, Any]) -> ModelUse:
    file = None
    if "file" in item:
        file = document.path.parent / item["file"]
        if not file.is_file():
            raise document.error((*place, "file"), f"no file {file}: give an ONNX model's path")
    elif (
        item["name"] != "digits"
        and "run" not in item
        and not (item.get("language") or item.get("tiny"))
    ):
        text = f"model {item['name']!r} needs `file`, or `run` for light and virtual nodes"
        raise document.error(place, text)
    return ModelUse(
        item["name"],
        file,
        seconds(item.get("run", "1ms")) * 1000,
        seconds(item.get("load", "30ms")) * 1000,
        item.get("tiny", False),
        item.get("language", False),
    )


def _group(document: Document, place: Place, item: dict[str, Any], duration_s: float) -> NodeGroup:
    join_s, within_s = seconds(item.get("join", 0)), seconds(item.get("join_within", 0))
    if join_s + within_s > duration_s:
        text = f"joins at {join_s + within_s:g} s, the scenario lasts {duration_s:g} s"
        raise document.error((*place, "join" if "join" in item else "join_within"), text)
    kind = NodeKindName(item["kind"])
    if "battery" in item and kind is not NodeKindName.LIGHT:
        raise document.error((*place, "battery"), "only light nodes have a battery that obeys")
    link = item.get("link", {})
    return NodeGroup(
        item["name"],
        kind,
        item.get("count", 1),
        item.get("slots", 8),
        item.get("workers", 1),
        item.get("speed", 1.0),
        join_s,
        within_s,
        LinkQuality(
            seconds(link.get("latency", 0)) * 1000,
            seconds(link.get("jitter", 0)) * 1000,
            link.get("loss", 0.0),
            link.get("bytes_per_s", 0.0),
            link.get("duplicate", 0.0),
            link.get("corruption", 0.0),
        ),
        item.get("battery"),
    )


def _load(
    document: Document, place: Place, item: dict[str, Any], duration_s: float, models: list[str]
) -> Load:
    if item["model"] not in models:
        near = get_close_matches(item["model"], models, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"models are {', '.join(models)}"
        text = f"no model is called {item['model']!r}: {hint}"
        raise document.error((*place, "model"), text)
    kind = LoadKind(item["kind"])
    for key in {
        LoadKind.CONSTANT: ("per_s",),
        LoadKind.POISSON: ("per_s",),
        LoadKind.BURSTS: ("burst", "every"),
        LoadKind.TRACE: ("file",),
        LoadKind.GENERATIONS: ("every",),
    }[kind]:
        if key not in item:
            raise document.error(place, f"a load of kind {kind.value} needs {key!r}")
    from_s, to_s = seconds(item.get("from", 0)), seconds(item.get("to", duration_s))
    if to_s > duration_s or from_s >= to_s:
        text = (
            f"the load goes from {from_s:g} s to {to_s:g} s, the scenario from 0 to "
            f"{duration_s:g} s"
        )
        raise document.error((*place, "to" if "to" in item else "from"), text)
    rate = item.get("burst", 0) / max(1e-9, seconds(item.get("every", 1)))
    tasks = (to_s - from_s) * max(item.get("per_s", 0.0), rate)
    if tasks > MOST_TASKS:
        text = (
            f"this load makes {tasks:,.0f} tasks, at most {MOST_TASKS:,} can be played: fewer a "
            "second, or a shorter time"
        )
        raise document.error(place, text)
    language = {
        model["name"] for model in document.value.get("models", ()) if model.get("language")
    }
    if (item["model"] in language) is not (kind is LoadKind.GENERATIONS):
        text = "loads of kind generations are for language models, all others for models of tasks"
        raise document.error((*place, "kind"), text)
    if kind in (LoadKind.BURSTS, LoadKind.GENERATIONS) and seconds(item["every"]) <= 0:
        raise document.error((*place, "every"), "bursts need some time between them")
    return Load(
        kind,
        item["model"],
        from_s,
        to_s,
        item.get("per_s", 0.0),
        item.get("burst", 0),
        seconds(item.get("every", 0)),
        _trace(document, (*place, "file"), item["file"]) if kind is LoadKind.TRACE else (),
        seconds(item.get("deadline", 0)),
        item.get("max_attempts", 0),
        item.get("at_most_once", False),
        item.get("priority", 5),
        item.get("tokens", 24),
    )


def _trace(document: Document, place: Place, name: str) -> tuple[tuple[float, int], ...]:
    path = document.path.parent / name
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise document.error(place, f"the trace {path} cannot be read ({error})") from error
    found: list[tuple[float, int]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            at, count = line.split(",")
            found.append((float(at), int(count)))
        except ValueError as error:
            text = f"{path}:{number}: {line!r} is not `second,tasks`"
            raise document.error(place, text) from error
    return tuple(sorted(found))


def _event(
    document: Document,
    place: Place,
    item: dict[str, Any],
    duration_s: float,
    groups: tuple[NodeGroup, ...],
) -> Happening:
    kind = EventKind(item["do"])
    at_s = seconds(item["at"])
    if at_s > duration_s:
        text = f"at {at_s:g} s nothing happens any more: the scenario lasts {duration_s:g} s"
        raise document.error((*place, "at"), text)
    nodes: tuple[str, ...] = ()
    if kind in OF_THE_MESH:
        if "nodes" in item:
            raise document.error((*place, "nodes"), f"{kind.value} concerns the whole mesh")
    else:
        nodes = _targets(document, place, item, groups)
    amount = 0.0
    key = _AMOUNTS.get(kind)
    if key is not None:
        if key not in item:
            raise document.error(place, f"{kind.value} needs {key!r}")
        amount = seconds(item[key]) * 1000 if key == "latency" else float(item[key])
    kinds = {group.name: group.kind for group in groups}
    for node in nodes:
        found = next(kinds[group.name] for group in groups if node in group.ids)
        if kind is EventKind.BATTERY and found is not NodeKindName.LIGHT:
            raise document.error(place, f"{node} is a {found.value} node: its battery is real")
        serial = {NodeKindName.AVR, NodeKindName.ARDUINO, NodeKindName.PICO}
        if kind is EventKind.CORRUPTION and found not in serial:
            raise document.error(place, f"{node} is a {found.value} node: it has no serial line")
    return Happening(
        at_s,
        kind,
        nodes,
        seconds(item["for"]) if "for" in item else None,
        amount,
        seconds(item.get("jitter", 0)) * 1000,
        item.get("times", 1),
    )


def _targets(
    document: Document, place: Place, item: dict[str, Any], groups: tuple[NodeGroup, ...]
) -> tuple[str, ...]:
    if "nodes" not in item:
        raise document.error(place, f"{item['do']} needs `nodes`: ids or patterns such as board-*")
    patterns = [item["nodes"]] if isinstance(item["nodes"], str) else item["nodes"]
    ids = [node for group in groups for node in group.ids]
    found: dict[str, None] = {}
    for pattern in patterns:
        hit = [node for node in ids if fnmatchcase(node, pattern)]
        if not hit:
            near = get_close_matches(pattern, ids, 1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"groups are {[g.name for g in groups]}"
            )
            raise document.error((*place, "nodes"), f"no node is called {pattern!r}: {hint}")
        found.update(dict.fromkeys(hit))
    return tuple(found)


def _expectations(item: dict[str, Any]) -> Expectations:
    def ms(key: str) -> float | None:
        return seconds(item[key]) * 1000 if key in item else None

    def optional_s(key: str) -> float | None:
        return seconds(item[key]) if key in item else None

    return Expectations(
        item.get("lost", 0),
        item.get("done_share", 1.0),
        ms("p50"),
        ms("p99"),
        item.get("tasks_per_s"),
        optional_s("ready_within"),
        optional_s("recovered_within"),
    )
