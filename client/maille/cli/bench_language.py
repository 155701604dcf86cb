"""The tables of `maille bench llm`."""

from rich.table import Table

from maille.bench.language import LanguageReport
from maille.cli import output

__all__ = ["show_language"]


def show_language(found: LanguageReport) -> None:
    """Print what was measured, for a person."""
    plan = found.plan
    console = output.stdout()
    speed = Table(title=f"{plan.model.name} on {plan.broker}, medians of {plan.repeats}")
    for column in ("", "decode tokens/s", f"prefill tokens/s ({plan.prefill})", "held up ms"):
        speed.add_column(column, justify="right" if column else "left")
    speed.add_row(
        "one node",
        f"{found.one_node_decode:.1f}",
        f"{found.one_node_prefill:.0f}",
        f"{found.one_node_held_up_ms:.0f}",
    )
    speed.add_row(
        f"{plan.nodes} nodes",
        f"{found.nodes_decode:.1f}",
        f"{found.nodes_prefill:.0f}",
        f"{found.nodes_held_up_ms:.0f}",
    )
    speed.add_row(
        f"{plan.nodes} nodes, {plan.sessions} sessions together",
        f"{found.sessions_decode:.1f} ({found.sessions_gain:.2f} x)",
        "",
        "",
    )
    console.print(speed)
    memory = Table()
    for column in ("stage", "layers", "slice MB", "cache MB", "resident MB", "beside MB"):
        memory.add_column(column, justify="left" if column == "stage" else "right")
    for stage in found.memory:
        memory.add_row(
            stage.node,
            f"{stage.first_layer}-{stage.last_layer}",
            f"{stage.slice_bytes / 1e6:.0f}",
            f"{stage.cache_bytes / 1e6:.0f}",
            f"{stage.resident_bytes / 1e6:.0f}",
            f"{stage.beside_bytes / 1e6:.0f}",
        )
    console.print(memory)
    console.print(
        f"a hop of one token: {4 * found.hidden_size} bytes of hidden values and at most "
        f"{found.hop_overhead_bytes} more"
    )
    console.print(
        '"held up" is the longest gap between two tokens beside another session\'s prefill, less '
        "the usual gap"
    )
