"""A tiny model as a C++ header: what a sketch includes to have it in its flash."""

import hashlib
import re
from pathlib import Path

from maille_node.firmware.avr import FirmwareError
from maille_node.firmware.targets import LEAST_STACK_BYTES, AvrTarget
from maille_protocol.tiny import LayerKind, decode_model

BUILT_IN_NAME = "model"
"""What sketches call the model that is built into them: `#include "model.h"`."""

_BYTES_A_LINE = 20
# avr-gcc makes no array larger than this, on boards of any size.
_LARGEST_ARRAY_BYTES = 32_767
_FUNCTIONS = {
    LayerKind.DENSE: "run_dense",
    LayerKind.CONV2D: "run_convolution",
    LayerKind.DEPTHWISE_CONV2D: "run_depthwise",
    LayerKind.MAX_POOL: "run_max_pool",
    LayerKind.AVERAGE_POOL: "run_average_pool",
    LayerKind.ADD: "run_add",
    LayerKind.LOOKUP: "run_lookup",
    LayerKind.ARG_MAX: "run_arg_max",
    LayerKind.SOFTMAX: "run_softmax",
    LayerKind.FOREST: "run_forest",
}


def write_model_header(document: bytes, target: AvrTarget, folder: Path) -> None:
    """Write model.h into a folder, which is made: with it first among the includes, a sketch runs this.

    Raises:
        WireError: not a tiny model.
        FirmwareError: it is too large to be built into a program for the board.
    """
    header = model_header(document, BUILT_IN_NAME)
    most = min(target.flash_bytes, _LARGEST_ARRAY_BYTES)
    if len(document) > most:
        raise FirmwareError(
            f"the model does not fit the {target.title}: it has {len(document):,} bytes, and at most "
            f"{most:,} can be built in; take a smaller one, `maille models convert --target "
            f"{target.name}` tells what fits"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{BUILT_IN_NAME}.h").write_text(header, encoding="utf-8")


def check_stack(target: AvrTarget, ram_bytes: int) -> None:
    """Refuse a program that would run its stack into its variables.

    Raises:
        FirmwareError: what is left of the RAM is too little.
    """
    left = target.ram_bytes - ram_bytes
    if left < LEAST_STACK_BYTES:
        raise FirmwareError(
            f"with this model the {target.title} has {left:,} bytes of RAM left for the stack, and "
            f"needs {LEAST_STACK_BYTES}; take one with smaller layers, `maille models convert "
            f"--target {target.name}` tells what fits, or a board with more RAM"
        )


def model_header(document: bytes, name: str) -> str:
    """The header of a model in the tiny format.

    It defines `NAME` (a maille::BuiltInModel) and `NAME_arena_bytes`.

    Args:
        document: the model's container.
        name: a C++ identifier.

    Raises:
        WireError: not a tiny model.
        ValueError: `name` is no identifier.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} cannot be a name in C++")
    model = decode_model(document)
    digest = hashlib.sha256(document)
    used = {layer.KIND for layer in model.layers}
    functions = ",\n    ".join(
        f"maille::tiny::{function}" if kind in used else "nullptr"
        for kind, function in sorted(_FUNCTIONS.items())
    )
    return (
        f"// {model.description.name}: {len(document):,} bytes, SHA-256 {digest.hexdigest()}\n"
        "// Made by `maille flash` from a model in the tiny format; do not edit.\n"
        "#pragma once\n"
        "#include <avr/pgmspace.h>\n"
        "#include <maille/node.h>\n\n"
        f"{_array(f'{name}_document', document)}\n"
        f"{_array(f'{name}_sha256', digest.digest())}\n"
        f"const maille::tiny::Layers {name}_layers = {{{{\n    {functions},\n}}}};\n"
        f"const maille::BuiltInModel {name} = {{{name}_document, sizeof {name}_document, "
        f"{name}_sha256,\n    &{name}_layers}};\n\n"
        "// Memory that it computes in\n"
        f"const uint16_t {name}_arena_bytes = {model.arena_bytes};\n"
    )


def _array(name: str, data: bytes) -> str:
    rows = (data[at : at + _BYTES_A_LINE] for at in range(0, len(data), _BYTES_A_LINE))
    body = "\n".join("  " + ", ".join(str(byte) for byte in row) + "," for row in rows)
    return f"const uint8_t {name}[] PROGMEM = {{\n{body}\n}};"
