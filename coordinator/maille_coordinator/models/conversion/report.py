"""How well a converted model answers, beside the float model, on the user's data."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from maille_coordinator.models.conversion.samples import Samples
from maille_protocol.tensors import Array
from maille_protocol.tiny import Model, dequantise_batch, quantise_batch, run_batch


@dataclass(frozen=True, slots=True)
class Quality:
    """Answers of both models. Shares are from 0 to 1; None where there is nothing to compare with."""

    samples: int
    float_accuracy: float | None
    """Share of labels the float model gets right."""
    tiny_accuracy: float | None
    agreement: float | None
    """Share of samples to which both give the same class."""
    largest_error: float | None
    """Of a model that gives numbers: the largest difference, as share of the numbers' range."""
    mean_error: float | None
    output: str
    """Which output was compared."""


def assess(model: Model, before: Mapping[str, Array], samples: Samples) -> Quality:
    """Compare on all samples with what the float model gave: by class, else by number."""
    after = tiny_outputs(model, samples)
    name, wanted_output, given_output = _compared(model, before, after)
    float_class = _classes(wanted_output, samples.labels)
    tiny_class = _classes(given_output, samples.labels)
    if float_class is None or tiny_class is None:
        return _numbers(name, wanted_output, given_output)
    agreement = float(np.mean(_texts(float_class) == _texts(tiny_class)))
    right: list[float | None] = [None, None]
    if samples.labels is not None:
        wanted = _texts(samples.labels)
        right = [float(np.mean(_texts(item) == wanted)) for item in (float_class, tiny_class)]
    return Quality(samples.count, right[0], right[1], agreement, None, None, name)


def tiny_outputs(model: Model, samples: Samples) -> dict[str, Array]:
    """What the tiny model answers, as the float model would put it, [sample, element]."""
    outputs = run_batch(model, quantise_batch(model, samples.inputs))
    real = dequantise_batch(model, outputs)
    return {name: array.reshape(samples.count, -1) for name, array in real.items()}


def _compared(
    model: Model, before: Mapping[str, Array], after: Mapping[str, Array]
) -> tuple[str, Array, Array]:
    """What to compare: an output of labels, else the first that both models have."""
    described = model.description.outputs
    chosen = next((item for item in described if item.labels), None)
    if chosen is not None and chosen.name not in before:
        # A label that the conversion added: it stands for the largest of the float model's scores.
        scores = next(
            array for array in before.values() if array[0].size == len(chosen.labels)
        ).reshape(len(next(iter(before.values()))), -1)
        return chosen.name, scores.astype(np.float64).argmax(axis=1), after[chosen.name]
    if chosen is None:
        chosen = next(item for item in described if item.name in before)
    return chosen.name, before[chosen.name], after[chosen.name]


def _classes(output: Array, labels: Array | None) -> Array | None:
    """The class of each sample; None where the output is no answer of a classifier."""
    flat = output.reshape(len(output), -1)
    if output.dtype.kind in "iuUO":
        first: Array = flat[:, 0]
        return first
    whole = labels is not None and bool(np.all(np.mod(_real(labels), 1) == 0))
    numbers = flat.astype(np.float64)
    if flat.shape[1] > 1 and (labels is None or whole):
        largest: Array = numbers.argmax(axis=1)
        return largest
    binary = labels is not None and whole and set(np.unique(labels).tolist()) <= {0, 1}
    if flat.shape[1] == 1 and binary:
        return (numbers[:, 0] > 0.5).astype(np.int64)
    return None


def _real(labels: Array) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    return labels.astype(np.float64) if labels.dtype.kind in "iubf" else np.full(len(labels), 0.5)


def _texts(classes: Array) -> "np.ndarray[tuple[int, ...], np.dtype[np.str_]]":
    """Comparable, whether labels came as integers, floats or texts."""
    if classes.dtype.kind == "f" and np.all(np.mod(_real(classes), 1) == 0):
        classes = classes.astype(np.int64)
    if classes.dtype.kind == "b":
        classes = classes.astype(np.int64)
    return np.array([str(item) for item in classes.tolist()])


def _numbers(name: str, before: Array, after: Array) -> Quality:
    wanted, given = before.astype(np.float64), after.astype(np.float64)
    span = float(np.ptp(wanted)) or 1.0
    error = np.abs(given - wanted) / span
    return Quality(len(wanted), None, None, None, float(error.max()), float(error.mean()), name)
