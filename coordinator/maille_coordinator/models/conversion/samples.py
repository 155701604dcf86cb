"""Calibration data: what a user's file holds, checked against the model's inputs."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maille_coordinator.models.conversion.errors import UnusableData
from maille_coordinator.models.conversion.graph import Graph
from maille_coordinator.models.conversion.operations import Reals
from maille_protocol.tensors import Array

LABEL_NAMES = ("y", "label", "labels", "target", "targets")
MIN_SAMPLES = 8
MAX_SAMPLES = 5000
"""More say nothing new about ranges; of more, that many are taken, spread evenly."""
_MAX_FILE_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Samples:
    """Real inputs [sample, ...] by name, and what the model should answer where it is given."""

    inputs: Mapping[str, Reals]
    labels: Array | None = None

    @property
    def count(self) -> int:
        """Samples."""
        return len(next(iter(self.inputs.values())))


def read_samples(path: Path, graph: Graph) -> Samples:
    """The samples in a `.npz` (or `.npy`) file.

    Raises:
        UnusableData: unreadable, or it does not fit the model.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UnusableData(f"{path} is larger than 1 GiB: a few hundred samples are enough")
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = (
                {name: loaded[name] for name in loaded.files}
                if isinstance(loaded, np.lib.npyio.NpzFile)
                else {"": loaded}
            )
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UnusableData(
            f"{path} cannot be read as NumPy data ({error}): write it with "
            "numpy.savez(FILE, X=inputs, y=labels)"
        ) from error
    return choose_samples(arrays, graph)


def choose_samples(arrays: Mapping[str, Array], graph: Graph) -> Samples:
    """Inputs and labels among arrays.

    An array named like an input is that input; with one input, any one array that is no label will
    do. Labels are called y, label, labels, target or targets.

    Raises:
        UnusableData: an input is missing or does not fit, or there are too few samples.
    """
    labels = next((arrays[name] for name in LABEL_NAMES if name in arrays), None)
    others = [name for name in arrays if name not in LABEL_NAMES]
    inputs: dict[str, Reals] = {}
    for name, shape in graph.inputs.items():
        found = name
        if name not in arrays and len(graph.inputs) == 1 and len(others) == 1:
            found = others[0]
        if found not in arrays:
            there = ", ".join(map(repr, arrays)) or "nothing"
            raise UnusableData(
                f"the data has no array for input {name!r} (it has {there}): write it with "
                f"numpy.savez(FILE, {name}=inputs, y=labels)"
            )
        inputs[name] = _samples(name, arrays[found], shape)
    counts = {name: len(array) for name, array in inputs.items()}
    if labels is not None:
        counts["the labels"] = len(labels)
    if len(set(counts.values())) > 1:
        raise UnusableData(f"the data has different numbers of samples: {counts}")
    count = next(iter(counts.values()))
    if count < MIN_SAMPLES:
        raise UnusableData(
            f"{count} samples are too few: give at least {MIN_SAMPLES}, better a few hundred, that "
            "show what the model will see"
        )
    if count > MAX_SAMPLES:
        chosen = np.linspace(0, count - 1, MAX_SAMPLES).astype(np.int64)
        inputs = {name: array[chosen] for name, array in inputs.items()}
        labels = None if labels is None else labels[chosen]
    return Samples(inputs, None if labels is None else labels.reshape(len(labels), -1).squeeze(1))


def _samples(name: str, array: Array, shape: tuple[int, ...]) -> Reals:
    if array.dtype.kind not in "biuf":
        raise UnusableData(f"the data for input {name!r} is {array.dtype}: numbers are needed")
    if array.ndim == 0 or array[:1].size != int(np.prod(shape)):
        raise UnusableData(
            f"the data for input {name!r} has shape {list(array.shape)}, the model takes "
            f"[samples, {', '.join(map(str, shape))}]"
        )
    real = array.reshape(len(array), *shape).astype(np.float64)
    if not np.isfinite(real).all():
        raise UnusableData(f"the data for input {name!r} holds values that are not finite")
    return real
