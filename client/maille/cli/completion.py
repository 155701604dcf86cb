"""What the shell completes from the mesh: names of nodes and of models."""

from collections.abc import Callable, Iterable

import typer

from maille.cli.common import find_key
from maille.errors import MailleError
from maille.mesh import Mesh
from maille_broker import BrokerError

_PATIENCE_S = 2.0


def complete_node(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of nodes that begin so; nothing where no mesh answers soon."""
    return _names(context, incomplete, lambda mesh: (node.name for node in mesh.nodes()))


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Names of models that begin so; nothing where no mesh answers soon."""
    return _names(context, incomplete, lambda mesh: (model.name for model in mesh.models.list()))


def _names(
    context: typer.Context, incomplete: str, found: Callable[[Mesh], Iterable[str]]
) -> list[str]:
    given = context.params
    try:
        key = find_key(context, given.get("key_file"))
        with Mesh(given.get("url"), key=key, mesh=given.get("mesh"), timeout_s=_PATIENCE_S) as mesh:
            return sorted({name for name in found(mesh) if name.startswith(incomplete)})
    except (MailleError, BrokerError, OSError):
        # Whoever presses Tab wants names or nothing.
        return []
