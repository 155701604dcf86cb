"""Real data sets: ONNX in, tiny out, accuracy on unseen samples within a point of the float model."""

import numpy as np
import pytest
from real_models import REAL_MODELS, converted

from maille_coordinator.models.conversion import choose_samples, read_graph
from maille_coordinator.models.conversion.evaluate import float_outputs
from maille_coordinator.models.conversion.report import assess
from maille_protocol.tiny import (
    decode_model,
    dequantise_outputs,
    quantise_inputs,
    run,
    self_test,
)
from maille_protocol.tiny.codes import MIN_SELF_TESTS

NAMES = tuple(REAL_MODELS)
LEAST_ACCURACY = {
    "digits-mlp": 0.95,
    "digits-cnn": 0.96,
    "breast-cancer-forest": 0.92,
    "wine-forest": 0.92,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_stays_within_one_point(name: str) -> None:
    real = REAL_MODELS[name]()
    conversion = converted(name)
    graph = read_graph(real.onnx)
    unseen = choose_samples({real.input_name: real.unseen, "y": real.unseen_labels}, graph)
    quality = assess(conversion.model, float_outputs(graph, unseen), unseen)
    assert quality.float_accuracy is not None
    assert quality.tiny_accuracy is not None
    assert quality.float_accuracy >= LEAST_ACCURACY[name]
    assert quality.tiny_accuracy >= quality.float_accuracy - 0.01
    print(f"{name}: {quality.float_accuracy:.4f} float, {quality.tiny_accuracy:.4f} tiny")  # noqa: T201


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
def test_the_container_carries_different_self_tests_and_passes_them(name: str) -> None:
    model = decode_model(converted(name).data)
    assert model == converted(name).model
    assert model.self_test_count >= MIN_SELF_TESTS
    assert self_test(model) is None
    size = model.input_bytes + model.output_bytes
    tests = np.frombuffer(model.self_tests, np.uint8).reshape(-1, size)
    assert len(np.unique(tests[:, model.input_bytes :], axis=0)) > 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
def test_one_sample_goes_as_clients_send_it(name: str) -> None:
    real = REAL_MODELS[name]()
    model = converted(name).model
    right = 0
    for sample, label in list(zip(real.unseen, real.unseen_labels, strict=True))[:30]:
        integers = quantise_inputs(model, {real.input_name: sample})
        assert set(integers) == {real.input_name}
        outputs = run(model, [integers[real.input_name]])
        names = [item.name for item in model.description.outputs]
        answer = dequantise_outputs(model, dict(zip(names, outputs, strict=True)))
        predicted = next(value for key, value in answer.items() if key in {"label", "digit"})
        assert predicted.dtype == np.int64
        right += int(predicted[0] == label)
    assert right >= 25
