"""`maille models convert`: a float ONNX model to the tiny format of microcontrollers."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from maille.cli import output
from maille.cli.common import JsonOption, friendly
from maille.errors import ModelRejected, SettingsError

if TYPE_CHECKING:
    from maille_coordinator.models.conversion import Conversion
    from maille_coordinator.models.conversion.report import Quality

_WARN_BELOW = 0.01
"""Accuracy that a person should be told has gone."""


@friendly
def convert(
    model: Annotated[Path, typer.Argument(help="A float ONNX file.")],
    *,
    data: Annotated[
        Path,
        typer.Option(
            help="What the model will see: numpy.savez(FILE, X=inputs, y=labels); labels optional."
        ),
    ],
    target: Annotated[
        str, typer.Option(help="avr, uno, nano, mega, esp32, rp2040, or any: what has to fit.")
    ] = "any",
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write; else beside the model, as .tiny."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Keep only this output (repeat for more), for example label."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a float ONNX model to integers for microcontrollers, and say how good and large it is.

    Add the result to a mesh with `maille models add FILE.tiny`.
    """
    if importlib.util.find_spec("onnx") is None:
        raise SettingsError(
            "Converting needs the package onnx, which is not installed. "
            "Install it with: pip install 'maille[convert]'"
        )
    from maille_coordinator.models.conversion import (
        TARGETS,
        ConversionError,
        UnusableData,
        convert_file,
    )

    if target not in TARGETS:
        raise SettingsError(f"There is no target {target!r}. Choose one of {', '.join(TARGETS)}.")
    for path, what in ((model, "model"), (data, "data")):
        if not path.is_file():
            raise SettingsError(f"The {what} {path} is no file. Check its name.")
    try:
        made = convert_file(model, data, target, keep or ())
    except UnusableData as error:
        raise SettingsError(_sentence(error)) from error
    except ConversionError as error:
        raise ModelRejected(_sentence(error)) from error
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be read: {error.strerror}.") from error
    path = out or model.with_suffix(".tiny")
    _write(path, made.data)
    if as_json:
        output.print_json(_document(path, made))
    else:
        _print(path, made)


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from error


def _document(path: Path, made: "Conversion") -> Mapping[str, object]:
    from maille_coordinator.models.conversion.targets import layer_name

    model = made.model
    return {
        "file": str(path),
        "size_bytes": len(made.data),
        "arena_bytes": model.arena_bytes,
        "peak_layer": layer_name(model, model.peak_layer),
        "multiply_accumulates": model.multiply_accumulates,
        "self_tests": model.self_test_count,
        "layers": [layer_name(model, index) for index in range(len(model.layers))],
        "quality": made.quality,
        "boards": [
            {
                "board": item.board.name,
                "fits": item.fits,
                "reason": item.reason,
                "hint": item.hint,
                "estimated_ms": round(item.estimated_ms, 3),
                "model_bytes": item.board.model_bytes,
                "arena_bytes": item.board.arena_bytes,
                "cycles": item.board.measured,
            }
            for item in made.fits
        ],
        "notes": list(made.notes),
    }


def _print(path: Path, made: "Conversion") -> None:
    from maille_coordinator.models.conversion.targets import layer_name

    model, console = made.model, output.stdout()
    console.print(f"[bold]{escape(str(path))}[/]  {len(made.data):,} bytes")
    for line in _quality_lines(made.quality):
        console.print(f"  {line}", markup=False)
    console.print(
        f"  memory    {model.arena_bytes:,} bytes, at most in "
        f"{layer_name(model, model.peak_layer)}",
        markup=False,
    )
    console.print(
        f"  work      {model.multiply_accumulates:,} multiply-accumulates in "
        f"{len(model.layers)} layers; {model.self_test_count} self-tests inside"
    )
    rows = [
        [
            item.board.name,
            "yes" if item.fits else "no",
            f"{100 * len(made.data) / item.board.model_bytes:.0f} %",
            f"{100 * model.arena_bytes / item.board.arena_bytes:.0f} %",
            f"{item.estimated_ms:.3g} ms",
            item.board.measured.split(":")[0],
            item.board.title,
        ]
        for item in made.fits
    ]
    columns = ["board", "fits", "storage", "memory", "time", "cycles", "boards"]
    console.print(output.table(columns, rows, right="storage memory time"))
    for item in made.fits:
        if item.reason or item.hint:
            console.print(f"  {item.board.name}: {item.reason or item.hint}", markup=False)
    for note in made.notes:
        console.print(f"  note: {note}", markup=False)
    console.print(f"Next: maille models add {path}", markup=False)


def _quality_lines(quality: "Quality") -> list[str]:
    lines: list[str] = []
    before, after = quality.float_accuracy, quality.tiny_accuracy
    if before is not None and after is not None:
        lines.append(
            f"accuracy  {100 * before:.2f} % before, {100 * after:.2f} % after "
            f"({quality.samples:,} samples)"
        )
        if before - after > _WARN_BELOW:
            lines.append(
                "          more than a point is lost: scale the inputs (StandardScaler), give more "
                "data, or train with weight decay"
            )
    if quality.agreement is not None:
        lines.append(
            f"agreement {100 * quality.agreement:.2f} % of answers are the float model's"
            + ("" if before is not None else "; give labels (y) in the data for accuracy")
        )
    if quality.largest_error is not None and quality.mean_error is not None:
        lines.append(
            f"error     {100 * quality.mean_error:.2f} % of the range on average, "
            f"{100 * quality.largest_error:.2f} % at most"
        )
    return lines
