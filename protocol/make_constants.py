# ruff: noqa: T201
"""Write the tiny format's codes and limits for C++: `nodes/arduino/src/maille/tiny_codes.h`.

    python protocol/make_constants.py           write it
    python protocol/make_constants.py --check   exit 1 where it is not current

A test runs the check. (The codes of the MicroPython library are held by a test of its own.)
"""

import sys
from enum import IntEnum
from pathlib import Path

from maille_protocol.tiny import codes
from maille_protocol.tiny.codes import ElementType, LayerKind

HEADER = Path(__file__).parents[1] / "nodes" / "arduino" / "src" / "maille" / "tiny_codes.h"
_TYPES = (("uint8_t", 0xFF), ("uint16_t", 0xFFFF), ("uint32_t", 0xFFFFFFFF))
_NAMES = (
    *("FORMAT_VERSION", "MAX_ARENA_BYTES", "MAX_LAYERS", "MAX_TENSORS", "MAX_SIZE"),
    *("MAX_POOL_ELEMENTS", "MAX_CLASSES", "WEIGHT_OFFSET", "CHANNEL_BYTES", "MAX_MULTIPLIER"),
    *("MAX_SHIFT", "LOOKUP_BYTES", "MAX_SOFTMAX_ENTRIES", "TREE_NODE_BYTES", "TREE_LEAF"),
    *("MAX_FEATURES", "MAX_TREE_NODES", "MAX_TREES", "FLAG_ACCUMULATOR_24"),
)


def header() -> str:
    """The text of the C++ header."""
    lines = [
        "// Made by protocol/make_constants.py from maille_protocol.tiny.codes; do not edit.",
        "#pragma once",
        "#include <stdint.h>",
        "",
        "namespace maille {",
        "namespace tiny {",
        "",
        f'static const char MAGIC[] = "{codes.MAGIC}";',
    ]
    for name in _NAMES:
        value: int = getattr(codes, name)
        kind = next(kind for kind, maximum in _TYPES if value <= maximum)
        lines.append(f"constexpr {kind} {name} = {value};")
    enums: tuple[tuple[str, type[IntEnum]], ...] = (
        ("ELEMENT", ElementType),
        ("LAYER", LayerKind),
    )
    for prefix, members in enums:
        lines.append("")
        lines += [
            f"constexpr uint8_t {prefix}_{member.name} = {int(member)};" for member in members
        ]
    return "\n".join([*lines, "", "}  // namespace tiny", "}  // namespace maille", ""])


def main(arguments: list[str]) -> int:
    """Write or check; the exit status."""
    current = HEADER.exists() and HEADER.read_text("utf-8") == header()
    if "--check" in arguments:
        if not current:
            print("tiny_codes.h is not current: run python protocol/make_constants.py")
        return 0 if current else 1
    HEADER.parent.mkdir(parents=True, exist_ok=True)
    HEADER.write_text(header(), "utf-8")
    print(f"wrote {HEADER.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
