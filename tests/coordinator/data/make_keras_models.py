"""Make keras_*.onnx, small models as Keras and tf2onnx export them.

Needs tensorflow-cpu 2.21 and tf2onnx 1.17, which the tests do not: run it in an environment of its
own, in this folder.
"""

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from tensorflow import keras

L = keras.layers
RANDOM = np.random.default_rng(0)


def save(name: str, model: "keras.Model", shape: tuple[int, ...]) -> None:
    """Train for a moment, so that weights are no longer those of the start, and export."""
    inputs = RANDOM.normal(size=(200, *shape)).astype(np.float32)
    outputs = np.abs(RANDOM.normal(size=(200, *model.output_shape[1:])).astype(np.float32))
    model.compile("adam", "mse")
    model.fit(inputs, outputs / outputs.sum(-1, keepdims=True), epochs=2, verbose=0)
    exported, _ = tf2onnx.convert.from_function(
        tf.function(model.call),
        input_signature=[tf.TensorSpec((None, *shape), tf.float32, name="x")],
        opset=17,
    )
    onnx.save(exported, f"keras_{name}.onnx")


def main() -> None:
    """Make all of them."""
    keras.utils.set_random_seed(1)
    save(
        "mlp",
        keras.Sequential(
            [
                L.Input((20,)),
                L.Dense(16, activation="relu"),
                L.BatchNormalization(),
                L.Dense(4, activation="softmax"),
            ]
        ),
        (20,),
    )
    save(
        "cnn",
        keras.Sequential(
            [
                L.Input((12, 12, 3)),
                L.Conv2D(8, 3, strides=2, padding="same"),
                L.BatchNormalization(),
                L.ReLU(6.0),
                L.DepthwiseConv2D(3, padding="same"),
                L.ReLU(),
                L.Conv2D(8, 1),
                L.ReLU(),
                L.GlobalAveragePooling2D(),
                L.Dense(3, activation="softmax"),
            ]
        ),
        (12, 12, 3),
    )
    save(
        "cnn_flat",
        keras.Sequential(
            [
                L.Input((8, 8, 1)),
                L.Conv2D(6, 3, activation="tanh"),
                L.MaxPooling2D(),
                L.Flatten(),
                L.Dropout(0.2),
                L.Dense(10, activation="softmax"),
            ]
        ),
        (8, 8, 1),
    )
    save(
        "conv1d",
        keras.Sequential(
            [
                L.Input((32, 3)),
                L.Conv1D(8, 5, strides=2, padding="same", activation="relu"),
                L.MaxPooling1D(2),
                L.Conv1D(8, 3, activation="swish"),
                L.GlobalAveragePooling1D(),
                L.Dense(1, activation="sigmoid"),
            ]
        ),
        (32, 3),
    )
    inputs = L.Input((8, 8, 2))
    first = L.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    second = L.Conv2D(4, 3, padding="same")(first)
    joined = L.ReLU()(L.Add()([first, second]))
    outputs = L.Dense(3)(L.Flatten()(L.AveragePooling2D(2)(joined)))
    save("residual", keras.Model(inputs, outputs), (8, 8, 2))


if __name__ == "__main__":
    main()
