"""The conversion as one call: ONNX bytes and data in, container and report out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from maille_coordinator.models.conversion.errors import DoesNotFit, UnsupportedModel
from maille_coordinator.models.conversion.evaluate import float_outputs, prove
from maille_coordinator.models.conversion.graph import Graph, read_graph
from maille_coordinator.models.conversion.lowering import lower
from maille_coordinator.models.conversion.observe import CUTS, Observed
from maille_coordinator.models.conversion.operations import Linear, Program, Sum
from maille_coordinator.models.conversion.outputs import add_label, keep_outputs
from maille_coordinator.models.conversion.quantise import quantise
from maille_coordinator.models.conversion.report import Quality, assess
from maille_coordinator.models.conversion.samples import Samples, read_samples
from maille_coordinator.models.conversion.targets import BOARDS, TARGETS, Fit, fit
from maille_protocol import UsageError
from maille_protocol.tensors import Array
from maille_protocol.tiny import Model, encode_model, make_self_tests, quantise_batch, run_batch
from maille_protocol.tiny.codes import MIN_SELF_TESTS


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model and what is known about it."""

    model: Model
    data: bytes
    quality: Quality
    fits: Sequence[Fit]
    notes: Sequence[str]


def convert_file(
    model: Path, data: Path, target: str = "any", keep: Sequence[str] = ()
) -> Conversion:
    """Convert the ONNX file `model` with the samples in `data` (`.npz`).

    `keep` names the outputs to have; without, all of the model, and a label for a classifier.

    Raises:
        UnsupportedModel: what the tiny format cannot express, by name.
        UnusableData: the samples do not fit the model.
        DoesNotFit: no board of the target has the room; names the layer and by how much.
        OSError: a file cannot be read.
    """
    graph = read_graph(model.read_bytes())
    return convert(graph, read_samples(data, graph), target, model.stem, keep)


def convert(
    graph: Graph,
    samples: Samples,
    target: str = "any",
    name: str = "",
    keep: Sequence[str] = (),
) -> Conversion:
    """Convert a graph. Raises as `convert_file` does, and KeyError for an unknown target."""
    boards = TARGETS[target]
    program = lower(graph)
    prove(program, graph, samples)
    add_label(program, samples)
    keep_outputs(program, keep)
    made, quality = _best(program, graph, samples, name)
    made = replace(made, self_tests=_self_tests(made, samples))
    try:
        data = encode_model(made)
    except UsageError as error:
        raise UnsupportedModel(f"the model exceeds the tiny format: {error}") from error
    fits = [fit(board, made, len(data)) for board in BOARDS]
    wanted = [item for item in fits if item.board.name in boards]
    if not any(item.fits for item in wanted):
        reasons = " ".join(f"{item.board.name}: {item.reason}." for item in wanted)
        raise DoesNotFit(
            f"the converted model fits no board of the target {target!r}. {reasons} "
            "Make that layer smaller, or choose a larger board with --target"
        )
    return Conversion(made, data, quality, fits, program.notes)


def _best(program: Program, graph: Graph, samples: Samples, name: str) -> tuple[Model, Quality]:
    """Of a few ways to choose ranges, the one whose answers are closest to the float model's."""
    observed = Observed(program, samples)
    before = float_outputs(graph, samples)
    found: list[tuple[Model, Quality]] = []
    for cut in CUTS:
        model = quantise(program, samples, observed, name, cut)
        found.append((model, assess(model, before, samples)))
        if not any(isinstance(item, Linear | Sum) for item in program.operations):
            break
    return max(found, key=lambda item: _closeness(item[1]))


def _closeness(quality: Quality) -> float:
    return -(quality.mean_error or 0.0) if quality.agreement is None else quality.agreement


def _self_tests(model: Model, samples: Samples) -> bytes:
    """Eight samples, as different in their answers as there are."""
    few = np.linspace(0, samples.count - 1, min(samples.count, 256)).astype(np.int64)
    inputs = quantise_batch(model, {name: array[few] for name, array in samples.inputs.items()})
    outputs = run_batch(model, inputs)
    seen: dict[bytes, list[int]] = {}
    for row in range(len(few)):
        answer = b"".join(output[row].tobytes() for output in outputs)
        seen.setdefault(answer, []).append(row)
    chosen = [rows[0] for rows in seen.values()]
    # Spread over what is different, then filled up with what is left.
    if len(chosen) > MIN_SELF_TESTS:
        picks = np.linspace(0, len(chosen) - 1, MIN_SELF_TESTS).astype(np.int64)
        chosen = [chosen[index] for index in picks]
    rest = [row for row in range(len(few)) if row not in chosen]
    chosen += rest[: MIN_SELF_TESTS - len(chosen)]
    taken: list[Array] = [array[sorted(chosen)] for array in inputs]
    return make_self_tests(model, taken)
