"""The plot of decision time over the number of nodes."""

import math

from maille.bench.scheduler import SchedulerCost
from maille_simulator.report.plots import BLUE, MUTED, ORANGE, new_figure, svg_text


def decisions_plot(cost: SchedulerCost) -> str:
    """One SVG: p50 and p99 from submission to offer, and the logarithm through the first p50."""
    figure, axes = new_figure(3.4)
    nodes = [one.nodes for one in cost.times]
    axes.plot(nodes, [one.submit_p99_us for one in cost.times], "o-", color=ORANGE, label="p99")
    axes.plot(nodes, [one.submit_p50_us for one in cost.times], "o-", color=BLUE, label="p50")
    first = cost.times[0]
    line = [first.submit_p50_us * math.log(count) / math.log(first.nodes) for count in nodes]
    axes.plot(nodes, line, "--", color=MUTED, label="logarithm through the first p50")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes")
    axes.set_ylabel("submission to offer, microseconds")
    axes.legend(frameon=False)
    return svg_text(figure)
