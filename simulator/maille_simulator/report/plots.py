"""The plots of a report, each as the text of one SVG element."""

import io
import math
import re
from collections import defaultdict
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from maille_simulator.report.record import RunRecord, quantile, text_of_ms

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, RED = "#2f6fab", "#d9822b", "#c23030"
MOST_LANES = 60
MOST_BARS = 6000

mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
    }
)


def latency_plot(record: RunRecord) -> str:
    """The share of the tasks that were back after so many ms."""
    latencies = record.latencies_ms
    if not latencies:
        return ""
    figure, axes = new_figure(2.8)
    shares = [(place + 1) / len(latencies) for place in range(len(latencies))]
    step = max(1, len(latencies) // 2000)
    axes.plot(latencies[::step], shares[::step], color=BLUE, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("from submission to result, ms")
    axes.set_ylabel("share of the tasks")
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        ms = quantile(latencies, share)
        axes.plot([ms], [share], "o", color=ORANGE, markersize=4)
        axes.annotate(
            f"{name} {text_of_ms(ms)}", (ms, share), (6, -11), textcoords="offset points", color=INK
        )
    return svg_text(figure)


def throughput_plot(record: RunRecord) -> str:
    """Tasks that ended in each second, and the events."""
    ends = [task.ended_s for task in record.tasks if task.ended_s is not None]
    starts = [task.submitted_s for task in record.tasks]
    if not ends:
        return ""
    figure, axes = new_figure(2.8)
    last_s = max(record.scenario.duration_s, *ends)
    bin_s = max(0.25, last_s / 120)
    edges = [place * bin_s for place in range(int(last_s / bin_s) + 2)]
    for values, color, name in ((starts, MUTED, "submitted"), (ends, BLUE, "ended")):
        counts = [0] * len(edges)
        for value in values:
            counts[int(value / bin_s)] += 1
        axes.step(
            edges,
            [count / bin_s for count in counts],
            where="post",
            color=color,
            linewidth=1.4,
            label=name,
        )
    _mark_events(axes, record, named=True)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, last_s)
    axes.set_xlabel("seconds")
    axes.set_ylabel("tasks a second")
    # Above the curves, which reach the top where work has piled up.
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return svg_text(figure)


def recovery_plot(record: RunRecord) -> str:
    """For each event, after how long all tasks were back that were under way."""
    recoveries = record.recoveries()
    if not recoveries:
        return ""
    figure, axes = new_figure(0.7 + 0.3 * len(recoveries))
    worst_s = max((after_s for _, after_s in recoveries if math.isfinite(after_s)), default=1.0)
    for place, (_mark, after_s) in enumerate(reversed(recoveries)):
        back = math.isfinite(after_s)
        axes.barh(place, after_s if back else worst_s or 1.0, 0.6, color=BLUE if back else RED)
        text = f" {after_s:.2f} s" if back else " never"
        axes.text(after_s if back else worst_s or 1.0, place, text, va="center", color=INK)
    axes.set_yticks(
        range(len(recoveries)),
        [f"{mark.text} at {mark.at_s:g} s" for mark, _ in reversed(recoveries)],
        color=INK,
    )
    axes.set_xlim(0, (worst_s or 1.0) * 1.18)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("until everything under way was back, seconds")
    return svg_text(figure)


def gantt_plot(record: RunRecord) -> str:
    """Who ran when."""
    if not record.attempts:
        return ""
    by_node: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for attempt in record.attempts[:MOST_BARS]:
        width_s = max(attempt.end_s - attempt.begin_s, record.scenario.duration_s / 2000)
        by_node[attempt.node].append((attempt.begin_s, width_s))
    lanes = [node for node in record.scenario.nodes if node in by_node][:MOST_LANES]
    if not lanes:
        return ""
    figure, axes = new_figure(0.9 + 0.17 * len(lanes))
    for place, node in enumerate(reversed(lanes)):
        axes.broken_barh(by_node[node], (place - 0.35, 0.7), color=BLUE, alpha=0.7, linewidth=0)
        for mark in record.marks:
            if node in mark.nodes:
                axes.plot([mark.at_s], [place], "x", color=RED, markersize=5)
    axes.set_yticks(range(len(lanes)), list(reversed(lanes)), color=INK, fontsize=7)
    _mark_events(axes, record, named=False)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, max(record.scenario.duration_s, *(one.end_s for one in record.attempts)))
    axes.set_ylim(-0.7, len(lanes) - 0.3)
    axes.set_xlabel("seconds")
    return svg_text(figure)


def bytes_plot(record: RunRecord) -> str:
    """Payload bytes by kind of topic."""
    found = sorted(record.bytes_by_topic.items(), key=lambda item: item[1])
    if not found:
        return ""
    figure, axes = new_figure(0.7 + 0.26 * len(found))
    axes.barh([name for name, _ in found], [count / 1000 for _, count in found], 0.6, color=BLUE)
    most = found[-1][1] / 1000
    for place, (_, count) in enumerate(found):
        axes.text(count / 1000, place, f" {count / 1000:,.1f} kB", va="center", color=INK)
    axes.set_xlim(0, most * 1.18 or 1)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("payload, kB")
    return svg_text(figure)


def _mark_events(axes: Any, record: RunRecord, *, named: bool) -> None:
    for place, mark in enumerate(record.marks):
        if mark.until_s is not None:
            axes.axvspan(mark.at_s, mark.until_s, color=ORANGE, alpha=0.1, linewidth=0)
        axes.axvline(mark.at_s, color=ORANGE, linewidth=1.0)
        if named:
            axes.annotate(
                f" {place + 1}", (mark.at_s, 1.0), xycoords=("data", "axes fraction"),
                va="top", color=ORANGE, fontsize=8,
            )  # fmt: skip


def new_figure(height_in: float) -> tuple[Figure, Any]:
    """An empty plot of the page's width."""
    figure = Figure(figsize=(8.6, height_in), layout="constrained")
    return figure, figure.add_subplot()


def svg_text(figure: Figure) -> str:
    """A figure as one SVG element that may stand beside others in a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Ids are unique in a figure only; a page holds several.
    prefix = f"f{abs(hash(text)) % 10**8}"
    text = re.sub(r'id="', f'id="{prefix}', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{prefix}", text)
    return re.sub(r'width="[^"]*" height="[^"]*"', 'width="100%"', text, count=1)
