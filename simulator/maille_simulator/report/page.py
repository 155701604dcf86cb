"""One self-contained HTML page for one run or several."""

import html
from collections.abc import Sequence

from maille_simulator.report import plots
from maille_simulator.report.record import RunRecord, quantile, text_of_ms

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff; margin: 0; }
main { max-width: 920px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 24px; margin: 24px 0 4px; } h2 { font-size: 17px; margin: 32px 0 6px; }
p { margin: 4px 0 10px; color: #52606d; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid #e4e7eb; }
th { font-weight: 600; color: #52606d; }
.yes { color: #1b7f4d; font-weight: 600; } .no { color: #c23030; font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin: 14px 0; }
.figures div { border: 1px solid #e4e7eb; border-radius: 8px; padding: 8px 12px; min-width: 80px; }
.figures b { display: block; font-size: 20px; } .figures span { color: #7b8794; font-size: 13px; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
"""


def html_page(records: Sequence[RunRecord]) -> str:
    """The page's text; it loads nothing from anywhere."""
    title = ", ".join(dict.fromkeys(record.scenario.name for record in records))
    body = "\n".join(_section(record) for record in records)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)} - maille simulate</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _section(record: RunRecord) -> str:
    scenario = record.scenario
    held = record.held
    verdict = '<span class="yes">held</span>' if held else '<span class="no">failed</span>'
    parts = [
        f"<h1>{html.escape(scenario.name)}: {verdict}</h1>",
        f"<p>{html.escape(scenario.description)}</p>",
        (
            f"<p>{record.mode} time, {scenario.duration_s:g} s, {len(scenario.nodes)} nodes, "
            f"seed {scenario.seed}; took {record.took_s:.1f} s.</p>"
        ),
        _figures(record),
        "<h2>What was expected</h2>",
        _checks(record),
    ]
    if record.twin is not None:
        parts += ["<h2>The twin</h2>", _twin(record)]
    for heading, text, svg in (
        ("Latency", "How many tasks were back after how long.", plots.latency_plot(record)),
        (
            "Throughput",
            _event_list(record),
            plots.throughput_plot(record),
        ),
        (
            "Recovery",
            "From each event until every task was back that was under way when it happened.",
            plots.recovery_plot(record),
        ),
        (
            "Who ran when",
            "Each bar is an attempt on a node; crosses hit it.",
            plots.gantt_plot(record),
        ),
        ("Traffic", "MQTT payload by kind of topic.", plots.bytes_plot(record)),
    ):
        if svg:
            parts += [f"<h2>{heading}</h2>", f"<p>{text}</p>", f"<figure>{svg}</figure>"]
    return "\n".join(parts)


def _event_list(record: RunRecord) -> str:
    if not record.marks:
        return "Nothing happened to the mesh."
    found = [
        f"{place}: {html.escape(mark.text)} at {mark.at_s:g} s"
        for place, mark in enumerate(record.marks, 1)
    ]
    return "Orange: " + "; ".join(found) + "."


def _figures(record: RunRecord) -> str:
    latencies = record.latencies_ms
    values = [
        (f"{len(record.tasks):,}", "tasks"),
        (f"{record.lost}", "lost"),
        (f"{record.done_share:.1%}", "done"),
        (text_of_ms(quantile(latencies, 0.5)), "p50"),
        (text_of_ms(quantile(latencies, 0.99)), "p99"),
        (f"{record.tasks_per_s:,.1f}", "tasks a second"),
        (f"{sum(task.attempts > 1 for task in record.tasks)}", "tried again"),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in values)
    return f'<div class="figures">{cells}</div>'


def _checks(record: RunRecord) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(check.name)}</td><td>{html.escape(check.wanted)}</td>"
        f"<td>{html.escape(check.found)}</td>"
        f'<td class="{"yes" if check.held else "no"}">{"held" if check.held else "failed"}</td></tr>'
        for check in record.checks()
    )
    return f"<table><tr><th>what</th><th>wanted</th><th>found</th><th></th></tr>{rows}</table>"


def _twin(record: RunRecord) -> str:
    twin = record.twin
    if twin is None:
        return ""
    rows = "".join(
        f"<tr><td>{name}</td><td>{predicted:.4g}</td><td>{measured:.4g}</td>"
        f"<td>{abs(predicted - measured) / measured:.1%}</td></tr>"
        for name, predicted, measured in (
            ("p50, ms", twin.p50_ms_predicted, twin.p50_ms_measured),
            ("tasks a second", twin.tasks_per_s_predicted, twin.tasks_per_s_measured),
        )
        if measured
    )
    return (
        "<p>The same scenario in virtual time, with this machine's measured profile.</p>"
        "<table><tr><th></th><th>predicted</th><th>measured</th><th>apart</th></tr>"
        f"{rows}</table>"
    )
