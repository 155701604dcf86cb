"""Models trained on scikit-learn's data sets and exported to ONNX, and what they convert to.

Trained once a run of the tests, in a few seconds: an MLP, a small convolutional network and forests.
The network is trained in NumPy and written with `onnx.helper` in the form that torch exports.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn import datasets
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maille_coordinator.models.conversion import (
    Conversion,
    choose_samples,
    convert,
    read_graph,
)

Floats = npt.NDArray[np.float32]
OPSETS = {"": 17, "ai.onnx.ml": 3}


@dataclass(frozen=True)
class RealModel:
    """A float model, its calibration samples, and others it never saw."""

    name: str
    onnx: bytes
    seen: Floats
    seen_labels: npt.NDArray[np.int64]
    unseen: Floats
    unseen_labels: npt.NDArray[np.int64]

    @property
    def input_name(self) -> str:
        return str(onnx.load_model_from_string(self.onnx).graph.input[0].name)


@cache
def digits_mlp() -> RealModel:
    """64-32-10 behind a scaler, as scikit-learn and skl2onnx give it."""
    images, labels = datasets.load_digits(return_X_y=True)
    model = make_pipeline(
        StandardScaler(), MLPClassifier((32,), max_iter=400, random_state=4, alpha=0.1)
    )
    return _sklearn("digits-mlp", model, images, labels)


@cache
def breast_cancer_forest() -> RealModel:
    samples, labels = datasets.load_breast_cancer(return_X_y=True)
    model = RandomForestClassifier(10, max_depth=5, random_state=2)
    return _sklearn("breast-cancer-forest", model, samples, labels)


@cache
def wine_forest() -> RealModel:
    samples, labels = datasets.load_wine(return_X_y=True)
    model = RandomForestClassifier(10, max_depth=5, random_state=2)
    return _sklearn("wine-forest", model, samples, labels)


@cache
def digits_cnn() -> RealModel:
    """3x3 convolution to 8 channels, ReLU, 2x2 maximum pool, dense to 10."""
    images, labels = datasets.load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32)
    parts = train_test_split(images, labels, test_size=0.3, random_state=5, stratify=labels)
    seen, unseen, seen_labels, unseen_labels = parts
    weights = _train_cnn(seen[:, 0] / 16, seen_labels)
    return RealModel("digits-cnn", _cnn_onnx(weights), seen, seen_labels, unseen, unseen_labels)


REAL_MODELS = {
    "digits-mlp": digits_mlp,
    "digits-cnn": digits_cnn,
    "breast-cancer-forest": breast_cancer_forest,
    "wine-forest": wine_forest,
}
"""Their makers; each is made once a process."""


@cache
def converted(name: str) -> Conversion:
    """The conversion of a real model by its name, calibrated on what the model was trained on."""
    real = REAL_MODELS[name]()
    graph = read_graph(real.onnx)
    samples = choose_samples({real.input_name: real.seen, "y": real.seen_labels}, graph)
    return convert(graph, samples, "any", real.name)


def _sklearn(
    name: str, model: object, samples: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> RealModel:
    seen, unseen, seen_labels, unseen_labels = train_test_split(
        samples.astype(np.float32), labels, test_size=0.3, random_state=5, stratify=labels
    )
    model.fit(seen, seen_labels)  # type: ignore[attr-defined]
    exported = to_onnx(model, seen[:1], target_opset=OPSETS, options={"zipmap": False})
    return RealModel(name, exported.SerializeToString(), seen, seen_labels, unseen, unseen_labels)


# --- a convolutional network in NumPy ---------------------------------------------------------------

CHANNELS = 8


def _windows(images: Floats) -> Floats:
    """3x3 neighbourhoods of padded images: [image, 64, 9]."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    shifted = [
        padded[:, row : row + 8, column : column + 8] for row in range(3) for column in range(3)
    ]
    return np.stack(shifted, axis=-1).reshape(len(images), 64, 9)


def _train_cnn(images: Floats, labels: npt.NDArray[np.int64]) -> list[Floats]:
    random = np.random.default_rng(7)
    kernel = (random.normal(size=(9, CHANNELS)) * 0.3).astype(np.float32)
    kernel_bias = np.zeros(CHANNELS, np.float32)
    dense = (random.normal(size=(16 * CHANNELS, 10)) * 0.1).astype(np.float32)
    dense_bias = np.zeros(10, np.float32)
    weights = [kernel, kernel_bias, dense, dense_bias]
    moments = [[np.zeros_like(item), np.zeros_like(item)] for item in weights]
    windows = _windows(images)
    step = 0
    for _ in range(30):
        order = random.permutation(len(images))
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            step += 1
            gradients = _gradients(weights, windows[chosen], labels[chosen])
            for index, (gradient, moment) in enumerate(zip(gradients, moments, strict=True)):
                moment[0] = 0.9 * moment[0] + 0.1 * gradient
                moment[1] = 0.999 * moment[1] + 0.001 * gradient**2
                mean = moment[0] / (1 - 0.9**step)
                variance = moment[1] / (1 - 0.999**step)
                weights[index] -= (0.004 * mean / (np.sqrt(variance) + 1e-8)).astype(np.float32)
    return weights


def _gradients(
    weights: list[Floats], windows: Floats, labels: npt.NDArray[np.int64]
) -> list[Floats]:
    kernel, kernel_bias, dense, dense_bias = weights
    count = len(windows)
    raw = windows @ kernel + kernel_bias
    active = np.maximum(raw, 0).reshape(count, 4, 2, 4, 2, CHANNELS)
    pooled = active.max(axis=(2, 4))
    flat = pooled.reshape(count, -1)
    scores = flat @ dense + dense_bias
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    shares[np.arange(count), labels] -= 1
    shares /= count
    back = (shares @ dense.T).reshape(pooled.shape)[:, :, np.newaxis, :, np.newaxis]
    largest = active == pooled[:, :, np.newaxis, :, np.newaxis]
    raw_back = (back * largest * (active > 0)).reshape(count * 64, CHANNELS)
    return [
        windows.reshape(-1, 9).T @ raw_back,
        raw_back.sum(axis=0),
        flat.T @ shares,
        shares.sum(axis=0),
    ]


def _cnn_onnx(weights: list[Floats]) -> bytes:
    kernel, kernel_bias, dense, dense_bias = weights
    # Trained with channels last; ONNX flattens channels first.
    first = (kernel.T / 16).reshape(CHANNELS, 1, 3, 3)
    second = dense.reshape(4, 4, CHANNELS, 10).transpose(2, 0, 1, 3).reshape(-1, 10).T
    constants = {
        "conv1.weight": first,
        "conv1.bias": kernel_bias,
        "fc.weight": second,
        "fc.bias": dense_bias,
    }
    nodes = [
        helper.make_node(
            "Conv",
            ["image", "conv1.weight", "conv1.bias"],
            ["conv1"],
            name="/conv1/Conv",
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
        ),
        helper.make_node("Relu", ["conv1"], ["relu1"], name="/relu/Relu"),
        helper.make_node(
            "MaxPool",
            ["relu1"],
            ["pool1"],
            name="/pool/MaxPool",
            kernel_shape=[2, 2],
            strides=[2, 2],
        ),
        helper.make_node("Flatten", ["pool1"], ["flat"], name="/Flatten"),
        helper.make_node(
            "Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], name="/fc/Gemm", transB=1
        ),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="/Softmax", axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["digit"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [
            helper.make_tensor_value_info("digit", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        [
            numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
            for name, array in constants.items()
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="pytorch"
    )
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
