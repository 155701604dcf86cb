"""The demonstration model: handwritten digits, a 64-32-10 network, as ONNX.

One reason to exist: every peer, and the mesh itself, is measured with this very file.
The data are the 1,797 images of the UCI handwritten digits that scikit-learn ships; the
seed is fixed, so the same library versions give the same model.

The model has one input, ``image`` (float32, [batch, 64], pixels from 0 to 16, any batch
size), and two outputs, ``label`` (int64, [batch]) and ``probabilities``
(float32, [batch, 10]).

    python -m bench.peers.digits digits.onnx
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PIXELS = 64
CLASSES = 10
_SEED = 20
_HIDDEN_UNITS = 32
_TEST_SHARE = 0.25
# Understood by every onnxruntime that the project supports, and by onnxruntime-web.
_OPSETS = {"": 17, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True)
class DigitsModel:
    """An exported classifier.

    Attributes:
        onnx: the bytes of the ONNX file.
        test_accuracy: share of right answers, 0 to 1, on images not trained on.
    """

    onnx: bytes
    test_accuracy: float


def images() -> npt.NDArray[np.float32]:
    """All images, float32, [1797, 64], pixels from 0 to 16."""
    return np.ascontiguousarray(load_digits().data, dtype=np.float32)


def labels() -> npt.NDArray[np.int64]:
    """The digit that each of `images` shows, int64, [1797]."""
    return np.asarray(load_digits().target, dtype=np.int64)


def train() -> DigitsModel:
    """Trains on three quarters of the images, tests on the others and exports."""
    train_images, test_images, train_labels, test_labels = train_test_split(
        images(), labels(), test_size=_TEST_SHARE, random_state=_SEED, stratify=labels()
    )
    classifier = make_pipeline(
        StandardScaler(),
        MLPClassifier(hidden_layer_sizes=(_HIDDEN_UNITS,), max_iter=400, random_state=_SEED),
    )
    classifier.fit(train_images, train_labels)
    exported = convert_sklearn(
        classifier,
        name="digits",
        initial_types=[("image", FloatTensorType([None, PIXELS]))],
        final_types=[
            ("label", Int64TensorType([None])),
            ("probabilities", FloatTensorType([None, CLASSES])),
        ],
        options={"zipmap": False},
        target_opset=_OPSETS,
    )
    return DigitsModel(
        onnx=exported.SerializeToString(),
        test_accuracy=float(classifier.score(test_images, test_labels)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits model and export it to ONNX.")
    parser.add_argument("path", type=Path, help="where to write the ONNX file")
    path: Path = parser.parse_args().path
    model = train()
    path.write_bytes(model.onnx)
    print(f"{path}: {len(model.onnx):,} bytes, {model.test_accuracy:.1%} right on unseen images")


if __name__ == "__main__":
    main()
