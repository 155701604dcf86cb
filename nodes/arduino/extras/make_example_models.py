"""Trains the models of the examples and writes them as headers beside the sketches.

Run it from the root of a checkout with the extra `demo` installed:
`python nodes/arduino/extras/make_example_models.py`. The models are small and are committed, so that
an example compiles without Python.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maille_coordinator.models.conversion import choose_samples, convert, read_graph
from maille_node.firmware.header import model_header

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
OPSETS = {"": 17, "ai.onnx.ml": 3}
WINDOW = 64  # samples at 1 kHz


def vibration(count: int, seed: int) -> tuple[Floats, Labels]:
    """Windows of an accelerometer on an analog pin, at 1 kHz, as fractions of its range.

    0 still, 1 turning at about 50 Hz, 2 turning out of balance: stronger, with half the frequency in it.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    time_s = np.arange(WINDOW) / 1000
    phase, half_phase = rng.uniform(0, 2 * np.pi, (2, count, 1))
    turn_hz = rng.uniform(45, 55, (count, 1))
    strength = np.choose(labels, [0.0, 0.08, 0.22])[:, np.newaxis] * rng.uniform(
        0.8, 1.2, (count, 1)
    )
    signal = strength * np.sin(2 * np.pi * turn_hz * time_s + phase)
    unbalance = (labels == 2)[:, np.newaxis] * 0.6 * strength
    signal += unbalance * np.sin(np.pi * turn_hz * time_s + half_phase)
    noise = rng.normal(0, 0.01, (count, WINDOW))
    return (0.5 + signal + noise).clip(0, 1).astype(np.float32), labels.astype(np.int64)


def write(name: str, sketch: str, model: object, values: Floats, labels: Labels) -> None:
    """Trains, converts and writes one model."""
    seen, unseen, seen_labels, unseen_labels = train_test_split(
        values, labels, test_size=0.25, random_state=0
    )
    model.fit(seen, seen_labels)  # type: ignore[attr-defined]
    accuracy = model.score(unseen, unseen_labels)  # type: ignore[attr-defined]
    exported = to_onnx(model, seen[:1], options={"zipmap": False}, target_opset=OPSETS)
    graph = read_graph(exported.SerializeToString())
    input_name = exported.graph.input[0].name
    samples = choose_samples({input_name: seen, "y": seen_labels}, graph)
    document = convert(graph, samples, "any", name).data
    (EXAMPLES / sketch).mkdir(parents=True, exist_ok=True)
    (EXAMPLES / sketch / "model.h").write_text(model_header(document, "model"), encoding="utf-8")
    (EXAMPLES / sketch / f"{name}.tiny").write_bytes(document)
    print(f"{name}: {len(document):,} bytes, {accuracy:.3f} right before conversion")  # noqa: T201


def main() -> None:
    """All examples."""
    images, digits = load_digits(return_X_y=True)
    network = MLPClassifier((32,), max_iter=400, random_state=4, alpha=0.1)
    write(
        "digits-mlp",
        "DigitsOnUno",
        make_pipeline(StandardScaler(), network),
        images.astype(np.float32),
        digits.astype(np.int64),
    )
    windows, states = vibration(6000, seed=1)
    network = MLPClassifier((24,), max_iter=200, random_state=2, alpha=0.01)
    write(
        "vibration",
        "VibrationClassifier",
        make_pipeline(StandardScaler(), network),
        windows,
        states,
    )


if __name__ == "__main__":
    main()
