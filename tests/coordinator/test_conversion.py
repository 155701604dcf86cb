"""Conversion of what torch, Keras and scikit-learn export, layer patterns and refusals."""

from pathlib import Path

import numpy as np
import pytest
from conversion_graphs import Drawn, converted_with_error, samples
from onnx import TensorProto

from maille_coordinator.models.conversion import (
    ConversionError,
    DoesNotFit,
    UnsupportedModel,
    UnusableData,
    choose_samples,
    convert,
    convert_file,
    read_graph,
    read_samples,
)
from maille_coordinator.models.conversion.steps import (
    described,
    multiplier_and_shift,
    steps_between,
)
from maille_protocol.tensors import Array
from maille_protocol.tiny import Model, decode_model, quantise_inputs, self_test


def kinds(model: Model) -> list[str]:
    return [layer.KIND.name for layer in model.layers]


# --- torch ----------------------------------------------------------------------------------------


def test_depthwise_separable_network_with_batch_normalisation_and_relu6() -> None:
    drawn = Drawn()
    drawn.conv("x", "c1", 6, 3, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1])
    norm = [drawn.weights(f"bn.{name}", 6) for name in ("weight", "bias", "mean")]
    variance = drawn.constant("bn.var", [0.5, 1, 2, 1, 0.7, 1.3])
    drawn.node("BatchNormalization", ["c1", *norm, variance], "n1")
    low, high = drawn.constant("low", 0), drawn.constant("high", 6)
    drawn.node("Clip", ["n1", low, high], "a1")
    drawn.conv("a1", "c2", 12, 1, 3, 3, group=6, pads=[1, 1, 1, 1])
    drawn.node("Clip", ["c2", low, high], "a2")
    drawn.conv("a2", "c3", 8, 12, 1, 1)
    drawn.node("Relu", ["c3"], "a3")
    drawn.node("GlobalAveragePool", ["a3"], "g")
    drawn.node("Flatten", ["g"], "f")
    drawn.dense("f", "y", 8, 5)
    data = drawn.finish({"x": [3, 10, 8]}, ["y"])
    made, errors = converted_with_error(data, {"x": samples((3, 10, 8))})
    assert kinds(made.model) == ["CONV2D", "DEPTHWISE_CONV2D", "CONV2D", "AVERAGE_POOL", "DENSE"]
    assert errors["y"] < 0.02
    (image,) = made.model.description.inputs
    assert (image.shape, image.order, image.tiny_shape) == ((3, 10, 8), (1, 2, 0), (10, 8, 3))
    assert self_test(decode_model(made.data)) is None


def test_residual_sum_writes_in_place_and_keeps_its_relu() -> None:
    drawn = Drawn()
    drawn.conv("x", "c1", 4, 2, 3, 3, pads=[1, 1, 1, 1])
    drawn.node("Relu", ["c1"], "a1")
    drawn.conv("a1", "c2", 4, 4, 3, 3, pads=[1, 1, 1, 1])
    drawn.node("Add", ["c2", "a1"], "s")
    drawn.node("Relu", ["s"], "a2")
    drawn.node("MaxPool", ["a2"], "p", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    drawn.node("Flatten", ["p"], "f")
    drawn.dense("f", "y", 4 * 3 * 3, 3)
    data = drawn.finish({"x": [2, 6, 6]}, ["y"])
    made, errors = converted_with_error(data, {"x": samples((2, 6, 6))})
    assert kinds(made.model) == ["CONV2D", "CONV2D", "ADD", "MAX_POOL", "DENSE"]
    assert errors["y"] < 0.02
    # The first convolution's output lives until the sum: 2 x 144 elements at once, no more.
    assert made.model.arena_bytes == 288


def test_one_dimensional_convolutions_and_pools() -> None:
    drawn = Drawn()
    drawn.conv("x", "c1", 6, 3, 5, strides=[2], pads=[2, 2])
    drawn.node("Relu", ["c1"], "a1")
    drawn.node("MaxPool", ["a1"], "p1", kernel_shape=[2], strides=[2])
    drawn.conv("p1", "c2", 6, 1, 3, group=6, pads=[1, 1])
    drawn.node("AveragePool", ["c2"], "p2", kernel_shape=[2], strides=[2])
    drawn.node("Flatten", ["p2"], "f")
    drawn.dense("f", "y", 6 * 4, 4)
    data = drawn.finish({"x": [3, 32]}, ["y"])
    made, errors = converted_with_error(data, {"x": samples((3, 32))})
    assert kinds(made.model) == [
        *("CONV2D", "MAX_POOL", "DEPTHWISE_CONV2D", "AVERAGE_POOL", "DENSE"),
    ]
    assert errors["y"] < 0.02


def test_relu_behind_a_pool_is_moved_before_it() -> None:
    drawn = Drawn()
    drawn.conv("x", "c1", 4, 1, 3, 3)
    drawn.node("MaxPool", ["c1"], "p", kernel_shape=[2, 2], strides=[2, 2])
    drawn.node("Relu", ["p"], "a")
    drawn.node("Flatten", ["a"], "f")
    drawn.dense("f", "y", 36, 3)
    made, errors = converted_with_error(
        drawn.finish({"x": [1, 8, 8]}, ["y"]), {"x": samples((1, 8, 8))}
    )
    assert kinds(made.model) == ["CONV2D", "MAX_POOL", "DENSE"]
    assert errors["y"] < 0.02


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("LeakyRelu", {"alpha": 0.1}),
        ("Elu", {"alpha": 0.5}),
        ("Selu", {}),
        ("HardSigmoid", {}),
        ("HardSwish", {}),
        ("Softplus", {}),
        ("Softsign", {}),
        ("Abs", {}),
        ("Erf", {}),
    ],
)
def test_functions_of_one_element_become_tables(op: str, attributes: dict[str, float]) -> None:
    drawn = Drawn()
    drawn.dense("x", "h", 10, 12)
    drawn.node(op, ["h"], "a", **attributes)
    drawn.dense("a", "y", 12, 3)
    made, errors = converted_with_error(drawn.finish({"x": [10]}, ["y"]), {"x": samples((10,))})
    assert kinds(made.model) == ["DENSE", "LOOKUP", "DENSE"]
    assert errors["y"] < 0.02


def test_silu_and_gelu_spelled_out_become_one_table() -> None:
    drawn = Drawn()
    drawn.dense("x", "h", 10, 12)
    drawn.node("Sigmoid", ["h"], "sig")
    drawn.node("Mul", ["h", "sig"], "silu")
    drawn.dense("silu", "h2", 12, 12)
    drawn.node("Div", ["h2", drawn.constant("root", 2**0.5)], "g1")
    drawn.node("Erf", ["g1"], "g2")
    drawn.node("Add", ["g2", drawn.constant("one", 1)], "g3")
    drawn.node("Mul", ["h2", "g3"], "g4")
    drawn.node("Mul", ["g4", drawn.constant("half", 0.5)], "gelu")
    drawn.dense("gelu", "y", 12, 3)
    made, errors = converted_with_error(drawn.finish({"x": [10]}, ["y"]), {"x": samples((10,))})
    assert kinds(made.model) == ["DENSE", "LOOKUP", "DENSE", "LOOKUP", "DENSE"]
    assert errors["y"] < 0.02


def test_log_softmax_and_two_outputs() -> None:
    drawn = Drawn()
    drawn.dense("x", "h", 10, 4)
    drawn.node("LogSoftmax", ["h"], "logs", axis=1)
    drawn.node("ArgMax", ["logs"], "best", axis=1, keepdims=0)
    made, errors = converted_with_error(
        drawn.finish({"x": [10]}, ["best", "logs"]), {"x": samples((10,))}
    )
    assert "ARG_MAX" in kinds(made.model)
    assert errors["best"] < 0.03
    assert errors["logs"] < 0.1  # shares below 1/255 all look alike
    assert "1/255" in made.notes[0]
    assert made.model.description.outputs[0].labels == (0, 1, 2, 3)


def classifier(*, shares: bool) -> bytes:
    drawn = Drawn()
    drawn.dense("x", "h", 10, 4)
    if shares:
        drawn.node("Softmax", ["h"], "y", axis=1)
    return drawn.finish({"x": [10]}, ["y" if shares else "h"])


def test_a_classifier_without_a_label_gets_one() -> None:
    inputs = samples((10,))
    made, _ = converted_with_error(classifier(shares=True), {"x": inputs})
    assert [item.name for item in made.model.description.outputs] == ["label", "y"]
    assert made.quality.output == "label"
    assert made.quality.agreement is not None
    assert made.quality.agreement > 0.97
    # Scores alone may be numbers of any meaning, unless the user's labels say otherwise.
    made, _ = converted_with_error(classifier(shares=False), {"x": inputs})
    assert [item.name for item in made.model.description.outputs] == ["h"]
    labels = np.arange(200) % 4
    made, _ = converted_with_error(classifier(shares=False), {"x": inputs, "y": labels})
    assert [item.name for item in made.model.description.outputs] == ["label", "h"]
    made, _ = converted_with_error(classifier(shares=False), {"x": inputs, "y": labels + 0.5})
    assert [item.name for item in made.model.description.outputs] == ["h"]


def test_outputs_that_are_not_kept_cost_nothing() -> None:
    graph = read_graph(classifier(shares=True))
    chosen = choose_samples({"x": samples((10,))}, graph)
    made = convert(graph, chosen, keep=["label"])
    assert kinds(made.model) == ["DENSE", "ARG_MAX"]
    assert made.model.output_bytes == 1
    assert made.quality.agreement is not None
    assert made.quality.agreement > 0.97
    with pytest.raises(UnsupportedModel, match="keep one of 'label', 'y'"):
        convert(graph, chosen, keep=["logits"])


def test_two_inputs_meet_in_a_sum() -> None:
    drawn = Drawn()
    drawn.dense("a", "ha", 6, 8)
    drawn.dense("b", "hb", 4, 8)
    drawn.node("Add", ["ha", "hb"], "s")
    drawn.node("Relu", ["s"], "r")
    drawn.dense("r", "y", 8, 2)
    made, errors = converted_with_error(
        drawn.finish({"a": [6], "b": [4]}, ["y"]),
        {"a": samples((6,)), "b": 20 * samples((4,), seed=3)},
    )
    assert kinds(made.model) == ["DENSE", "DENSE", "ADD", "DENSE"]
    assert errors["y"] < 0.02


# --- Keras through tf2onnx ------------------------------------------------------------------------


def test_keras_channels_last_same_padding_and_global_average() -> None:
    drawn = Drawn()
    drawn.node("Transpose", ["x"], "t1", perm=[0, 3, 1, 2])
    drawn.conv("t1", "c1", 6, 3, 3, 3, strides=[2, 2], auto_pad="SAME_UPPER")
    drawn.node("Relu", ["c1"], "a1")
    drawn.node("Transpose", ["a1"], "t2", perm=[0, 2, 3, 1])
    drawn.node("ReduceMean", ["t2"], "g", axes=[1, 2], keepdims=0)
    drawn.node("MatMul", ["g", drawn.weights("dense", 6, 4)], "m")
    drawn.node("Add", ["m", drawn.weights("bias", 4)], "l")
    drawn.node("Softmax", ["l"], "y", axis=-1)
    made, errors = converted_with_error(
        drawn.finish({"x": [9, 8, 3]}, ["y"]), {"x": samples((9, 8, 3))}
    )
    assert kinds(made.model) == ["CONV2D", "AVERAGE_POOL", "DENSE", "SOFTMAX", "ARG_MAX"]
    assert errors["y"] < 0.02
    assert made.model.description.inputs[0].order == (0, 1, 2)


def test_keras_flatten_of_channels_last_and_same_pool() -> None:
    drawn = Drawn()
    drawn.node("Transpose", ["x"], "t1", perm=[0, 3, 1, 2])
    drawn.conv("t1", "c1", 4, 1, 3, 3, auto_pad="VALID")
    drawn.node("Tanh", ["c1"], "a1")
    drawn.node("MaxPool", ["a1"], "p", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")
    drawn.node("Transpose", ["p"], "t2", perm=[0, 2, 3, 1])
    drawn.node("Reshape", ["t2", drawn.constant("shape", [-1, 64], np.int64)], "f")
    drawn.node("MatMul", ["f", drawn.weights("dense", 64, 1)], "m")
    drawn.node("Sigmoid", ["m"], "y")
    rng = samples((9, 9, 1))
    graph_bytes = drawn.finish({"x": [9, 9, 1]}, ["y"])
    made, errors = converted_with_error(graph_bytes, {"x": rng})
    assert kinds(made.model) == ["CONV2D", "LOOKUP", "MAX_POOL", "DENSE", "LOOKUP"]
    assert errors["y"] < 0.03


def test_normalisation_of_the_image_goes_into_the_inputs_description() -> None:
    drawn = Drawn()
    mean = drawn.constant("mean", np.array([100, 120, 90]).reshape(1, 3, 1, 1))
    deviation = drawn.constant("deviation", np.array([50, 60, 40]).reshape(1, 3, 1, 1))
    drawn.node("Sub", ["x", mean], "s")
    drawn.node("Div", ["s", deviation], "d")
    drawn.conv("d", "c1", 4, 3, 3, 3, pads=[1, 1, 1, 1])
    drawn.node("GlobalAveragePool", ["c1"], "g")
    drawn.node("Flatten", ["g"], "f")
    drawn.dense("f", "y", 4, 2)
    pixels = np.random.default_rng(1).integers(0, 256, (60, 3, 5, 5)).astype(np.uint8)
    made, errors = converted_with_error(drawn.finish({"x": [3, 5, 5]}, ["y"]), {"x": pixels})
    assert kinds(made.model) == ["CONV2D", "AVERAGE_POOL", "DENSE"]
    assert errors["y"] < 0.02
    assert len(made.model.description.inputs[0].quantisations) == 75
    # Pixels in the input's own integer type would count as quantised; as numbers they do not.
    integers = quantise_inputs(made.model, {"x": pixels[0].astype(np.float64)})
    assert integers["x"].shape == (5, 5, 3)


def test_a_scale_behind_a_relu_goes_into_the_next_dense_layer() -> None:
    drawn = Drawn()
    drawn.dense("x", "h", 10, 6)
    drawn.node("Relu", ["h"], "r")
    drawn.node("Mul", ["r", drawn.constant("gain", [1, -2, 3, 0.5, -1, 2])], "m")
    drawn.node("Add", [drawn.constant("shift", [0.5, 1, 0, -2, 1, 1]), "m"], "a")
    drawn.dense("a", "y", 6, 2)
    made, errors = converted_with_error(drawn.finish({"x": [10]}, ["y"]), {"x": samples((10,))})
    assert kinds(made.model) == ["DENSE", "DENSE"]
    assert errors["y"] < 0.02


def test_a_scale_that_nothing_takes_over_becomes_a_layer() -> None:
    gain = np.array([1, -2, 3, 0.5]).reshape(1, 4, 1, 1)
    for op in ("Relu", "MaxPool"):
        drawn = Drawn()
        drawn.conv("x", "h", 4, 2, 3, 3, pads=[1, 1, 1, 1])
        drawn.node("Relu", ["h"], "r")
        drawn.node("Mul", [drawn.constant("gain", gain), "r"], "m")
        if op == "MaxPool":
            drawn.node(op, ["m"], "y", kernel_shape=[2, 2], strides=[2, 2])
        else:
            drawn.node(op, ["m"], "y")
        made, errors = converted_with_error(
            drawn.finish({"x": [2, 6, 6]}, ["y"]), {"x": samples((2, 6, 6))}
        )
        assert kinds(made.model)[:2] == ["CONV2D", "DEPTHWISE_CONV2D"]
        assert errors["y"] < 0.02
    drawn = Drawn()
    drawn.dense("x", "h", 10, 6)
    drawn.node("Relu", ["h"], "r")
    drawn.node("Mul", ["r", drawn.constant("gain", [1, 2, 0.5, 1, 3, 1])], "m")
    drawn.node("ArgMax", ["m"], "y", axis=1, keepdims=0)
    made, errors = converted_with_error(drawn.finish({"x": [10]}, ["y"]), {"x": samples((10,))})
    assert kinds(made.model) == ["DENSE", "DEPTHWISE_CONV2D", "ARG_MAX"]
    assert errors["y"] < 0.05


def test_models_that_keras_exported() -> None:
    """Made by data/make_keras_models.py with TensorFlow and tf2onnx."""
    wanted = {
        "mlp": (["DENSE", "DENSE", "SOFTMAX", "ARG_MAX"], (20,)),
        "cnn": (
            [
                *("CONV2D", "DEPTHWISE_CONV2D", "CONV2D", "AVERAGE_POOL", "DENSE"),
                *("SOFTMAX", "ARG_MAX"),
            ],
            (12, 12, 3),
        ),
        "cnn_flat": (["CONV2D", "LOOKUP", "MAX_POOL", "DENSE", "SOFTMAX", "ARG_MAX"], (8, 8, 1)),
        "conv1d": (
            [*("CONV2D", "MAX_POOL", "CONV2D", "LOOKUP", "AVERAGE_POOL", "DENSE", "LOOKUP")],
            (32, 3),
        ),
        "residual": (["CONV2D", "CONV2D", "ADD", "AVERAGE_POOL", "DENSE"], (8, 8, 2)),
    }
    for name, (layers, shape) in wanted.items():
        data = (Path(__file__).parent / "data" / f"keras_{name}.onnx").read_bytes()
        inputs = np.random.default_rng(2).normal(size=(200, *shape)).astype(np.float32)
        made, errors = converted_with_error(data, {"x": inputs})
        assert kinds(made.model) == layers
        # Hardly trained, they answer nearly the same to everything: a step is much of that range.
        assert max(errors.values()) < 0.05
        assert made.model.description.inputs[0].shape == shape


def test_features_of_very_different_size_get_steps_of_their_own() -> None:
    drawn = Drawn()
    drawn.dense("x", "h", 4, 8)
    drawn.node("Relu", ["h"], "r")
    drawn.dense("r", "y", 8, 1)
    drawn.constants["h.weight"] = (
        drawn.constants["h.weight"] / np.array([1, 1000, 0.01, 30])
    ).astype(np.float32)
    inputs = samples((4,)) * np.array([1, 1000, 0.01, 30])
    made, errors = converted_with_error(drawn.finish({"x": [4]}, ["y"]), {"x": inputs})
    assert len(made.model.description.inputs[0].quantisations) == 4
    assert errors["y"] < 0.02


# --- refusals -------------------------------------------------------------------------------------


def refused(drawn: Drawn, shape: list[int], match: str, outputs: tuple[str, ...] = ("y",)) -> None:
    graph = read_graph(drawn.finish({"x": shape}, outputs))
    with pytest.raises(UnsupportedModel, match=match) as caught:
        converted_with_error(
            drawn.finish({"x": shape}, outputs), {"x": samples(next(iter(graph.inputs.values())))}
        )
    assert ":" in str(caught.value)


def test_an_unknown_operator_is_named_with_the_next_step() -> None:
    drawn = Drawn()
    drawn.weights("w", 1, 16, 3)
    drawn.weights("r", 1, 16, 4)
    drawn.node("LSTM", ["x", "w", "r"], "y", hidden_size=4, layout=0)
    graph = read_graph(drawn.finish({"x": [5, 3]}, ["y"]))
    with pytest.raises(UnsupportedModel, match=r"LSTM \('/y'\).*1-D convolution"):
        converted_with_error(graph.serialized, {"x": samples((5, 3))})


def test_forms_that_have_no_counterpart_are_named() -> None:
    drawn = Drawn()
    drawn.conv("x", "y", 2, 1, 3, 3, dilations=[2, 2])
    refused(drawn, [1, 8, 8], r"Conv \('/y'\): a dilated window")

    drawn = Drawn()
    drawn.conv("x", "y", 4, 2, 3, 3, group=2)
    refused(drawn, [4, 8, 8], r"2 groups over 4 channels")

    drawn = Drawn()
    drawn.dense("x", "a", 4, 4)
    drawn.dense("x", "b", 4, 4)
    drawn.node("Mul", ["a", "b"], "y")
    refused(drawn, [4], r"Mul \('/y'\): of two computed tensors only the sum")

    drawn = Drawn()
    drawn.dense("x", "a", 4, 4)
    drawn.dense("x", "b", 4, 4)
    drawn.node("Concat", ["a", "b"], "y", axis=1)
    refused(drawn, [4], r"Concat \('/y'\): joining tensors")

    drawn = Drawn()
    drawn.conv("x", "c", 4, 3, 3, 3)
    drawn.node("Softmax", ["c"], "y", axis=1)
    refused(drawn, [3, 5, 5], "softmax over a part")

    drawn = Drawn()
    drawn.node("AveragePool", ["x"], "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    refused(drawn, [1, 6, 6], "count_include_pad=1")

    drawn = Drawn()
    drawn.dense("x", "h", 4, 300)
    drawn.node("ArgMax", ["h"], "y", axis=1)
    refused(drawn, [4], "300 classes")

    drawn = Drawn()
    drawn.node("Reshape", ["x", drawn.constant("s", [-1, 3, 4, 4], np.int64)], "i")
    drawn.conv("i", "y", 2, 3, 3, 3)
    refused(drawn, [48], r"let images enter the model as \[batch, channels, height, width\]")

    drawn = Drawn()
    drawn.node("Identity", ["x"], "y")
    refused(drawn, [4], "nothing to compute")


def test_inputs_of_open_size_or_of_text_are_refused() -> None:
    drawn = Drawn()
    drawn.node("Relu", ["x"], "y")
    with pytest.raises(UnsupportedModel, match="open size"):
        read_graph(drawn.finish({"x": ["length"]}, ["y"]))
    with pytest.raises(UnsupportedModel, match="of type string"):
        read_graph(drawn.finish({"x": [4]}, ["y"], element_type=TensorProto.STRING))
    with pytest.raises(UnsupportedModel, match="no ONNX file"):
        read_graph(b"GGUF....")


def test_a_model_too_large_for_the_target_names_layer_and_excess() -> None:
    drawn = Drawn()
    drawn.dense("x", "h", 64, 360)
    drawn.node("Relu", ["h"], "r")
    drawn.dense("r", "y", 360, 10)
    data = drawn.finish({"x": [64]}, ["y"])
    with pytest.raises(
        DoesNotFit, match=r"uno: \d+ bytes of model are \d+ more .*dense, Gemm \('/h'"
    ):
        converted_with_error(data, {"x": samples((64,))}, "uno")
    made, _ = converted_with_error(data, {"x": samples((64,))}, "avr")
    assert [item.board.name for item in made.fits if item.fits] == ["mega", "rp2040", "esp32"]
    hints = {item.board.name: item.hint for item in made.fits}
    assert hints["mega"] == ""
    assert "raise max_model_bytes to at least" in hints["rp2040"]
    assert "arena_bytes" not in hints["rp2040"]

    drawn = Drawn()
    drawn.conv("x", "c", 8, 1, 3, 3, pads=[1, 1, 1, 1])
    drawn.node("GlobalAveragePool", ["c"], "g")
    drawn.node("Flatten", ["g"], "f")
    drawn.dense("f", "y", 8, 3)
    data = drawn.finish({"x": [1, 16, 16]}, ["y"])
    with pytest.raises(
        DoesNotFit, match=r"bytes of memory are \d+ more than .* at layer 0 \(conv2d"
    ):
        converted_with_error(data, {"x": samples((1, 16, 16))}, "uno")


# --- data -----------------------------------------------------------------------------------------


def test_data_that_does_not_fit_is_refused_with_what_would(tmp_path: Path) -> None:
    drawn = Drawn()
    drawn.dense("x", "y", 4, 2)
    data = drawn.finish({"x": [4]}, ["y"])
    graph = read_graph(data)
    good = samples((4,), 20)
    assert choose_samples({"anything": good}, graph).count == 20
    unfit: tuple[tuple[dict[str, Array], str], ...] = (
        ({"x": good[:, :3]}, r"takes \[samples, 4\]"),
        ({"x": good[:5]}, "too few"),
        ({"x": good, "y": np.zeros(3)}, "different numbers of samples"),
        ({"a": good, "b": good}, "no array for input 'x'"),
        ({"x": np.full((20, 4), np.nan)}, "not finite"),
        ({"x": np.full((20, 4), "a")}, "numbers are needed"),
        ({"x": np.zeros(())}, "shape"),
        ({}, "nothing"),
    )
    for arrays, match in unfit:
        with pytest.raises(UnusableData, match=match):
            choose_samples(arrays, graph)
    (tmp_path / "noise.npz").write_bytes(b"PK\3\4 no archive")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("noise.npz", "pickled.npy", "absent.npz"):
        with pytest.raises(UnusableData, match="cannot be read"):
            read_samples(tmp_path / name, graph)
    np.save(tmp_path / "good.npy", good)
    (tmp_path / "model.onnx").write_bytes(data)
    made = convert_file(tmp_path / "model.onnx", tmp_path / "good.npy")
    assert made.model.description.name == "model"
    assert made.quality.float_accuracy is None
    assert issubclass(UnusableData, ConversionError)


# --- numbers --------------------------------------------------------------------------------------


def test_multipliers_are_within_half_a_unit_of_15_bits() -> None:
    for real in (0.5, 0.49999, 0.25, 0.2500001, 0.1, 0.003, 2.0**-16, 3e-9, 1e-12):
        multiplier, shift = multiplier_and_shift(real)
        assert 0 <= multiplier <= 32768
        assert 0 <= shift <= 31
        made = multiplier * 2.0 ** -(16 + shift)
        assert abs(made - real) <= max(real * 2.0**-15, 2.0**-48)
    assert multiplier_and_shift(0.0) == (0, 0)
    with pytest.raises(ValueError, match=r"0\.6"):
        multiplier_and_shift(0.6)


def test_steps_have_zero_among_them_and_descriptions_keep_24_bits() -> None:
    for low, high in ((-1.0, 1.0), (0.0, 6.0), (2.0, 5.0), (-7.0, -3.0), (0.0, 0.0), (-1e-12, 0)):
        steps = steps_between(low, high)
        assert 0 <= steps.zero <= 255
        assert steps.scale * (255 - steps.zero) >= high - steps.scale
        assert -steps.scale * steps.zero <= low + steps.scale
    for real in (1.0, 0.1, -3.7e-5, 12345.678, 0.0):
        quantisation = described(0.1, real)
        assert quantisation.offset == pytest.approx(real, rel=2**-23)
        assert abs(quantisation.scale_mantissa) < 1 << 25
