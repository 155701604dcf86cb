"""The demonstration's model and images: UCI handwritten digits, a small network, kept as a file."""

import importlib.util
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import platformdirs

from maille.errors import SettingsError

SEED = 20
HIDDEN_UNITS = 32
TEST_SHARE = 0.25
OPSETS = {"": 17, "ai.onnx.ml": 3}
"""Understood by every onnxruntime that nodes may have."""
FORM = 1
"""Raised when what is kept changes, so that an old file is not used."""


@dataclass(frozen=True, slots=True)
class Digits:
    """Images (float32 [1797, 64], pixels 0 to 16), what they show, and a model's ONNX bytes."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    onnx: bytes

    def labels_alone(self) -> npt.NDArray[np.int64]:
        """What onnxruntime alone, in this process, answers."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            self.onnx, options, providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(["label"], {"X": self.images})[0], dtype=np.int64)


def kept_file() -> Path:
    """Where the trained model and the images lie."""
    return platformdirs.user_cache_path("maille") / f"demo-digits-{FORM}.npz"


def load_digits() -> tuple[Digits, bool]:
    """The images and the model, and whether it had to be trained (seconds) for that."""
    path = kept_file()
    try:
        with np.load(path, allow_pickle=False) as kept:
            return Digits(kept["images"], kept["labels"], kept["onnx"].tobytes()), False
    except (OSError, ValueError, KeyError):
        digits = train()
    data = io.BytesIO()
    np.savez_compressed(
        data,
        images=digits.images,
        labels=digits.labels,
        onnx=np.frombuffer(digits.onnx, dtype=np.uint8),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(data.getvalue())
    temporary.replace(path)
    return digits, True


def train() -> Digits:
    """Train on three quarters of the images and export; the same versions give the same bytes.

    Raises:
        SettingsError: the packages for it are not installed.
    """
    for package in ("sklearn", "skl2onnx"):
        if importlib.util.find_spec(package) is None:
            raise SettingsError(
                f"The demonstration needs {package}, which is not installed. "
                "Install it with: pip install 'maille[all]'"
            )
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn import datasets
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    bunch = datasets.load_digits()
    images = np.ascontiguousarray(bunch.data, dtype=np.float32)
    labels = np.asarray(bunch.target, dtype=np.int64)
    seen, _, seen_labels, _ = train_test_split(
        images, labels, test_size=TEST_SHARE, random_state=SEED, stratify=labels
    )
    classifier = make_pipeline(
        StandardScaler(),
        MLPClassifier(hidden_layer_sizes=(HIDDEN_UNITS,), max_iter=400, random_state=SEED),
    )
    classifier.fit(seen, seen_labels)
    exported = convert_sklearn(
        classifier,
        name="digits",
        initial_types=[("X", FloatTensorType([None, images.shape[1]]))],
        options={"zipmap": False},
        target_opset=OPSETS,
    )
    return Digits(images, labels, exported.SerializeToString())
