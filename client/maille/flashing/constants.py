"""Puts the library's numbers where they are used, before it is compiled for a board.

A public `NAME = const(5)` costs a board a name and a place in its module, and every use a look-up.
Here each use becomes the number and the definition goes; lines stay where they are, so that a
board's tracebacks still fit the sources.
"""

import ast
import re
from collections.abc import Mapping

_DEFINITION = re.compile(r"^([A-Z][A-Z0-9_]*) = const\(([0-9xA-Fa-f]+)\)", re.MULTILINE)
Constants = Mapping[str, Mapping[str, int]]


def constants_of(sources: Mapping[str, str]) -> Constants:
    """The public numbers of every module, by module and name.

    Args:
        sources: text by the module's name.
    """
    return {
        module: {name: int(value, 0) for name, value in _DEFINITION.findall(text)}
        for module, text in sources.items()
    }


def inlined(module: str, text: str, constants: Constants) -> str:
    """The text of `module` with numbers for the constants of all modules."""
    tree = ast.parse(text)
    edits = _Edits(text)
    known = dict(constants.get(module, {}))
    modules: dict[str, str] = {}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.ImportFrom) and statement.level == 1:
            for alias in statement.names:
                here = alias.asname or alias.name
                if statement.module is None:
                    modules[here] = alias.name
                elif alias.name in constants.get(statement.module, {}):
                    known[here] = constants[statement.module][alias.name]
    used: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in modules:
                value = constants.get(modules[name], {}).get(attribute)
                if value is None:
                    used.add(name)
                else:
                    edits.replace(node, str(value))
            case ast.Name(id=name, ctx=ast.Load()) if name in known:
                edits.replace(node, str(known[name]))
            case ast.Assign(targets=[ast.Name(id=name)]) if name in constants.get(module, {}):
                edits.replace(node, "pass")
            case _:
                pass
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            _trim(node, known, constants, used, edits)
    return edits.done()


def _trim(
    node: ast.ImportFrom,
    known: Mapping[str, int],
    constants: Constants,
    used: set[str],
    edits: "_Edits",
) -> None:
    """Leave out of an import what is a number now."""
    kept = [
        alias
        for alias in node.names
        if (
            (alias.asname or alias.name) not in known
            if node.module is not None
            else alias.name not in constants
            or not constants[alias.name]
            or (alias.asname or alias.name) in used
        )
    ]
    if len(kept) == len(node.names):
        return
    names = ", ".join(
        alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in kept
    )
    edits.replace(node, f"from .{node.module or ''} import {names}" if kept else "pass")


class _Edits:
    """Replacements in a text that keep its number of lines."""

    def __init__(self, text: str) -> None:
        self._lines = text.encode().splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._edits: list[tuple[int, int, bytes]] = []

    def replace(self, node: ast.expr | ast.stmt, text: str) -> None:
        """Put `text` in the place of a node."""
        assert node.end_lineno is not None  # noqa: S101 - ast.parse gives all places
        assert node.end_col_offset is not None  # noqa: S101
        begin = self._starts[node.lineno - 1] + node.col_offset
        end = self._starts[node.end_lineno - 1] + node.end_col_offset
        lines = "\n" * (node.end_lineno - node.lineno)
        self._edits.append((begin, end, (text + lines).encode()))

    def done(self) -> str:
        """The new text."""
        whole = b"".join(self._lines)
        # What lies within something that goes as a whole needs no edit of its own.
        outer: list[tuple[int, int, bytes]] = []
        for edit in sorted(self._edits, key=lambda edit: (edit[0], -edit[1])):
            if not outer or edit[0] >= outer[-1][1]:
                outer.append(edit)
        for begin, end, text in reversed(outer):
            whole = whole[:begin] + text + whole[end:]
        return whole.decode()
