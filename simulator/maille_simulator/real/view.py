"""What a person sees while a scenario plays."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from maille_simulator.report.record import RunRecord, quantile
from maille_simulator.virtual.scenario_run import marks_of


def live_view(record: RunRecord, elapsed_s: float, states: Mapping[str, int]) -> RenderableType:
    """A few lines: how far, which nodes, how the tasks do, what happened last and comes next."""
    scenario = record.scenario
    tasks = record.tasks
    ended = sum(task.ended_s is not None for task in tasks)
    latencies = record.latencies_ms[-5000:]
    table = Table.grid(padding=(0, 2))
    table.add_row(
        Text(scenario.name, style="bold"),
        f"{min(max(0.0, elapsed_s), scenario.duration_s):5.1f} of {scenario.duration_s:g} s",
        ProgressBar(total=scenario.duration_s, completed=max(0.0, elapsed_s), width=30),
    )
    nodes = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    table.add_row("nodes", nodes or "none yet", "")
    p50 = f"p50 {quantile(latencies, 0.5):.1f} ms" if latencies else ""
    table.add_row("tasks", f"{ended} of {len(tasks)} back", p50)
    marks = marks_of(scenario)
    past = [mark for mark in marks if mark.at_s <= elapsed_s]
    coming = [mark for mark in marks if mark.at_s > elapsed_s]
    last = f"{past[-1].text} at {past[-1].at_s:g} s" if past else "nothing"
    following = f"next: {coming[0].text} at {coming[0].at_s:g} s" if coming else ""
    table.add_row("happened", last, following)
    return Group(table)
