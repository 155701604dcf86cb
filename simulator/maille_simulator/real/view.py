"""What a person sees while a scenario plays."""

from collections.abc import Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from maille_simulator.report.record import RunRecord, quantile, text_of_ms
from maille_simulator.virtual.scenario_run import marks_of

BAR_CHARACTERS = 30
LABEL_CHARACTERS = len("happened")


def live_view(
    record: RunRecord, elapsed_s: float | None, states: Mapping[str, int]
) -> RenderableType:
    """A few lines: how far, which nodes, how the tasks do, what happened last and comes next.

    Each is one line, cut where the terminal ends: lines that come and go make a view jump.

    Args:
        record: what was seen until now.
        elapsed_s: since the scenario began; None while its processes start.
        states: how many nodes are in each state.
    """
    scenario = record.scenario
    tasks = record.tasks
    passed_s = min(max(0.0, elapsed_s or 0.0), scenario.duration_s)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=max(len(scenario.name), LABEL_CHARACTERS))
    table.add_column(no_wrap=True, overflow="ellipsis")
    how_far = Text("its processes start")
    if elapsed_s is not None:
        filled = round(BAR_CHARACTERS * passed_s / scenario.duration_s)
        how_far = Text(f"{passed_s:5.1f} of {scenario.duration_s:g} s  ")
        how_far.append("\u2501" * filled, "green")
        how_far.append("\u2501" * (BAR_CHARACTERS - filled), "bright_black")
    table.add_row(Text(scenario.name, style="bold"), how_far)
    nodes = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    table.add_row("nodes", nodes or "none yet")
    ended = sum(task.ended_s is not None for task in tasks)
    latencies = record.latencies_ms[-5000:]
    p50 = f", p50 {text_of_ms(quantile(latencies, 0.5))}" if latencies else ""
    table.add_row("tasks", f"{ended} of {len(tasks)} back{p50}")
    marks = marks_of(scenario)
    past = [mark for mark in marks if elapsed_s is not None and mark.at_s <= elapsed_s]
    coming = [mark for mark in marks if elapsed_s is None or mark.at_s > elapsed_s]
    table.add_row(
        "happened", f"{past[-1].text} at {round(past[-1].at_s, 1):g} s" if past else "nothing"
    )
    table.add_row(
        "next", f"{coming[0].text} at {round(coming[0].at_s, 1):g} s" if coming else "nothing"
    )
    return table
