"""What every worker of every peer runs: one image through one ONNX session.

The session has one thread, because the peers run one worker a core.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

Answer = tuple[int, npt.NDArray[np.float32]]
"""The label, and the probability of each class."""


class Classifier:
    """Loads a model with one float32 input [batch, n] and two outputs: label, probabilities."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: npt.NDArray[np.float32]) -> Answer:
        """Classifies one image, float32, [n]."""
        label, probabilities = self._session.run(None, {self._input: image.reshape(1, -1)})
        return int(label[0]), probabilities[0]

    def from_bytes(self, image: bytes) -> tuple[int, bytes]:
        """As calling it, but with the image and the probabilities as bytes."""
        label, probabilities = self(np.frombuffer(image, dtype=np.float32))
        return label, probabilities.tobytes()


def answer_from_bytes(label: int, probabilities: bytes) -> Answer:
    """The answer that `Classifier.from_bytes` gave."""
    return label, np.frombuffer(probabilities, dtype=np.float32)
