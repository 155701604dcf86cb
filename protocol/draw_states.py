# ruff: noqa: T201
"""Draw the state diagrams in SPEC.md from the tables in `maille_protocol.states`.

python protocol/draw_states.py           rewrite them
python protocol/draw_states.py --check   exit 1 and name what is out of date
"""

import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from maille_protocol.states import PRESENCE_TRANSITIONS, TASK_TRANSITIONS, TaskState

SPEC = Path(__file__).parent / "SPEC.md"


def mermaid(first: str, arrows: Mapping[tuple[str, str], list[str]], final: list[str]) -> str:
    """A mermaid diagram; events that lead the same way share one arrow."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for (source, target), events in arrows.items():
        lines.append(f"    {source} --> {target}: {' / '.join(events)}")
    lines += [f"    {state} --> [*]" for state in final]
    return "\n".join([*lines, "```"])


def task_diagram() -> str:
    """The life of a task."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for state, transitions in TASK_TRANSITIONS.items():
        for event, target in transitions.items():
            arrows.setdefault((state.value, target.value), []).append(_words(event.value))
    return mermaid(
        TaskState.QUEUED.value,
        arrows,
        [state.value for state in TaskState if state.final],
    )


def presence_diagram() -> str:
    """What a coordinator makes of what it hears from a node."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for state, transitions in PRESENCE_TRANSITIONS.items():
        for event, target in transitions.items():
            arrows.setdefault((_name(state), _name(target)), []).append(_words(event))
    return mermaid("init", arrows, [])


def _name(state: Enum) -> str:
    return state.name.lower()


def _words(event: object) -> str:
    """The event as a label; mermaid ends a label at a semicolon and starts one at a colon."""
    text = event.value if isinstance(event, Enum) else str(event)
    return str(text).replace(";", ",").replace(":", ",")


DIAGRAMS = {"task": task_diagram, "presence": presence_diagram}


def drawn(text: str) -> str:
    """`text` with every diagram between its markers drawn anew.

    Raises:
        ValueError: a marker is missing or stands twice.
    """
    for name, draw in DIAGRAMS.items():
        begin, end = f"<!-- states: {name} -->\n", f"<!-- end of states: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"SPEC.md must hold {begin.strip()!r} and {end!r} once each")
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}{draw()}\n{end}{after}"
    return text


def main(arguments: list[str]) -> int:
    """Write or check; the exit status."""
    old = SPEC.read_text("utf-8")
    new = drawn(old)
    if "--check" in arguments:
        if old != new:
            print("protocol/SPEC.md: diagrams differ from the tables: run protocol/draw_states.py")
        return int(old != new)
    SPEC.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
