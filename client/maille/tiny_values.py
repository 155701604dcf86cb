"""Real numbers to a tiny model's integers and back: programs never see the integers."""

from dataclasses import replace

import numpy as np

from maille.errors import InputError, MeshUnavailable
from maille.values import Inputs, by_name
from maille.views import Model
from maille_protocol import ErrorCode, UsageError, WireError
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import Array
from maille_protocol.tiny import Model as TinyModel
from maille_protocol.tiny import decode_model, dequantise_outputs, quantise_inputs


def decode_tiny(model: Model, data: bytes) -> TinyModel:
    """The container of a model.

    Raises:
        MeshUnavailable: this version cannot read it.
    """
    try:
        return decode_model(data)
    except WireError as error:
        raise MeshUnavailable(
            f"Model {model.name!r} cannot be read ({error}). Another version of Maille may have "
            "made it: update this one."
        ) from error


def as_people_see_it(model: Model, tiny: TinyModel) -> Model:
    """The model with real inputs, and outputs as real numbers or labels."""
    described = tiny.description
    return replace(
        model,
        inputs=tuple(TensorSpec(found.name, "float32", found.shape) for found in described.inputs),
        outputs=tuple(
            TensorSpec(found.name, _dtype(found.labels), found.shape) for found in described.outputs
        ),
    )


def quantised(inputs: Inputs, model: Model, tiny: TinyModel) -> dict[str, Array]:
    """The integers of a task, from numbers in the shapes of the original model (or with 1 before).

    Raises:
        InputError: a name, type or shape that the model does not take.
    """
    named = by_name(inputs, model.inputs, model.name)
    try:
        arrays = {name: np.asarray(value) for name, value in named.items()}
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"Model {model.name!r}: an input is not a regular array ({error}). "
            "Lists must have the same length at each depth.",
            ErrorCode.INPUT_SHAPE,
        ) from error
    try:
        return quantise_inputs(tiny, arrays)
    except UsageError as error:
        known = {found.name for found in tiny.description.inputs} == set(arrays)
        code = ErrorCode.INPUT_SHAPE if known else ErrorCode.INPUT_NAME
        raise InputError(f"Model {model.name!r}: {error}.", code) from error


def dequantised(outputs: dict[str, Array], tiny: TinyModel) -> dict[str, Array]:
    """Real numbers or labels.

    Raises:
        MeshUnavailable: they are not what the model gives.
    """
    try:
        return dequantise_outputs(tiny, outputs)
    except UsageError as error:
        raise MeshUnavailable(
            f"The outputs are not the model's ({error}). The node may run another version of "
            "Maille: update the older one."
        ) from error


def _dtype(labels: tuple[int | str, ...]) -> str:
    if not labels:
        return "float32"
    return "str" if any(isinstance(label, str) for label in labels) else "int64"
