"""Compute with Keras itself the numbers that `test_notebook.py` and the tests of augmentation compare with.

Run by hand, in an environment of its own; Keras is no dependency of this project:

    pip install keras tensorflow-cpu scipy pillow
    python tests/models/keras_reference.py

It writes `keras_reference.npz` beside itself: numbers and version strings only, no pickle.

**Networks.** For each order, `before` and `after`, each momentum, `0.99` and `0.25`, and each precision,
`float32` (Keras's default, one training step) and `float64` (three steps on the same batch):

    pixels, labels                           uint8 (32, 32, 32, 3), to be divided by 256; float32 (32, 1)
    initial/<weight>                         the fixed weights in Keras's layout, e.g. initial/conv_1/kernel
    <order>/parameter_counts, layer_names    of each layer, in order
    <order>/totals                           parameters: all, trainable, not trainable
    <order>/<momentum>/<precision>/
        inference_logits, inference_probabilities, training_logits      before the first step
        losses                                                          of each step, before its update
        inference_logits_afterwards                                     after the last step
        afterwards/<moving statistic>
    <order>/<precision>/afterwards/<weight>  trainable ones; the same for every momentum. In float64 only
                                             every SAMPLE_STRIDE-th value of the flattened weight.

Rounding is what makes a comparison to 1e-5 hard, so the fixed numbers are chosen to keep it small:

- Adam's first step moves a weight by 1e-3 * g / (|g| + 3.2e-6). A bias in front of a batch norm has a
  gradient of zero but for rounding, and 1e-8 of that becomes a move of 3e-6; so does 1e-8 of rounding in
  any other gradient close to zero. The last kernel is small (2 % of Glorot's bound): all gradients and
  their rounding shrink with it, the steps hardly do. That makes logits small; they are compared in float64,
  to 1e-9, as well.
- Pixels are multiples of 1/256, the first kernel of 1/1024, and the first bias lies between the multiples
  of their product: the first convolution is exact in float32 and never exactly zero, so no ReLU is on for
  one library and off for the other.
- Most of each kernel's mean over its places is taken out, so every unit is active for about half of the
  batch; all gammas are positive, so max pooling picks no value at ReLU's kink.
- All weights lie on a grid (of 1/1024, the last kernel's on a finer one), to compress well.

Gammas, betas and moving statistics are far from their initial values, so a wrong epsilon or momentum shows.

**Zoom.** `zoom/image` (32, 32, 3) uint8, `zoom/factors` (n, 2) of (zx, zy), `zoom/outputs` (n, 32, 32, 3)
float32: what `ImageDataGenerator(zoom_range=0.2).apply_transform` makes of the image. Its convention, for a
square image of n pixels a side, centre c = (n - 1) / 2, pixel centres at whole numbers:

    output[row, column] = input[c + zy * (row - c), c + zx * (column - c)]

read bilinearly (order 1), without rounding; coordinates outside [0, n - 1] are clamped to it
(`fill_mode="nearest"`). So zx stretches columns and zy rows; a factor below 1 magnifies, one above 1
shrinks and repeats the border. Keras draws zx, then zy, independently, from U(0.8, 1.2). For an image that is
not square Keras takes each axis's centre from the other axis's length, a slip that no square patch shows.

**Resize.** `resize/image` (96, 96, 3) and `resize/output` (32, 32, 3), uint8: what
`flow_from_dataframe(target_size=(32, 32))` reads, by `load_img`. It is `image[1::3, 1::3]`. Keras resizes
first, zooms the 32 x 32 patch in [0, 255] next and scales to [0, 1] last.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="2", TF_ENABLE_ONEDNN_OPTS="0")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from PIL import Image

Arrays = dict[str, np.ndarray]

OUTPUT = Path(__file__).with_suffix(".npz")
SEED = 25
ORDERS = ("before", "after")
MOMENTA = (0.99, 0.25)
GRID = 2.0**-10
PIXEL_GRID = 2.0**-8
SAMPLE_STRIDE = 7
KERNEL_GAINS = {"conv_1": 4.0, "conv_2": 1.0, "dense_1": 0.5, "dense_2": 0.02}  # times Glorot's bound
INPUT_CHANNELS = {"conv_1": 3, "conv_2": 32, "dense_1": 64}
MOVING = ("moving_mean", "moving_variance")


def build(order: str, momentum: float, dtype: str) -> tuple[keras.Model, keras.Model]:
    """The notebook's model, and the same layers up to its logits."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)

    def normalised(x, number: int):
        norm = layers.BatchNormalization(momentum=momentum, name=f"norm_{number}")
        relu = layers.Activation("relu", name=f"relu_{number}")
        return relu(norm(x)) if order == "before" else norm(relu(x))

    inputs = keras.Input((32, 32, 3))
    x = normalised(layers.Conv2D(32, 3, name="conv_1")(inputs), 1)
    x = layers.MaxPooling2D(3, name="pool_1")(x)
    x = normalised(layers.Conv2D(64, 3, name="conv_2")(x), 2)
    x = layers.MaxPooling2D(3, name="pool_2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = normalised(layers.Dense(128, name="dense_1")(x), 3)
    logits = layers.Dense(1, name="dense_2")(x)
    # Dense(1, activation="sigmoid"), in two layers so that the logits can be seen.
    probabilities = layers.Activation("sigmoid", name="sigmoid")(logits)
    return keras.Model(inputs, probabilities), keras.Model(inputs, logits)


def fixed_weights(model: keras.Model, rng: np.random.Generator) -> Arrays:
    """Weights, by their Keras path, on a grid; every kind far from its initial value."""

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        match path.split("/"):
            case [name, "kernel"]:
                receptive = int(np.prod(shape[:-2]))
                bound = KERNEL_GAINS[name] * np.sqrt(6.0 / (receptive * (shape[-2] + shape[-1])))
                kernel = rng.uniform(-bound, bound, shape)
                if name == "dense_2":
                    return kernel
                per_place = kernel.reshape(-1, INPUT_CHANNELS[name], shape[-1])
                return (per_place - 0.9 * per_place.mean(axis=0)).reshape(shape)
            case [_, "bias"]:
                return rng.uniform(0.0, 0.4, shape)
            case [_, "gamma"]:
                return rng.uniform(0.5, 1.5, shape)
            case [_, "beta"] | [_, "moving_mean"]:
                return rng.uniform(-0.3, 0.3, shape)
            case [_, "moving_variance"]:
                return rng.uniform(0.05, 0.5, shape)
        raise AssertionError(f"no rule for the weight {path}")

    def rounded(path: str, value: np.ndarray) -> np.ndarray:
        grid = GRID / 64 if path == "dense_2/kernel" else GRID  # that kernel is small
        return np.round(value / grid) * grid

    weights = {w.path: rounded(w.path, draw(w.path, tuple(w.shape))) for w in model.weights}
    weights["conv_1/bias"] += GRID * PIXEL_GRID / 2
    return {path: value.astype("f4") for path, value in weights.items()}


def fixed_batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noise around a colour of each patch's own (flat areas would tie in max pooling), and labels."""
    colours = rng.uniform(85, 170, (32, 1, 1, 3))
    pixels = (colours + rng.uniform(-85, 85, (32, 32, 32, 3))).astype("u1")
    return pixels, rng.integers(0, 2, (32, 1)).astype("f4")


def parameter_counts(order: str) -> Arrays:
    model, _ = build(order, 0.99, "float32")
    trainable, frozen = (
        sum(int(np.prod(w.shape)) for w in group) for group in (model.trainable_weights, model.non_trainable_weights)
    )
    return {
        f"{order}/parameter_counts": np.array([layer.count_params() for layer in model.layers[1:]]),
        f"{order}/layer_names": np.array([type(layer).__name__ for layer in model.layers[1:]]),
        f"{order}/totals": np.array([model.count_params(), trainable, frozen]),
    }


def record_steps(
    order: str, momentum: float, dtype: str, steps: int, weights: Arrays, pixels: np.ndarray, y: np.ndarray
) -> Arrays:
    """Outputs, losses, and the state after the last of a few training steps."""
    model, logits_model = build(order, momentum, dtype)
    x, y = pixels.astype(dtype) * PIXEL_GRID, y.astype(dtype)

    def set_weights() -> None:
        for weight in model.weights:
            weight.assign(weights[weight.path])

    set_weights()
    arrays = {
        "inference_logits": logits_model(x, training=False).numpy(),
        "inference_probabilities": model(x, training=False).numpy(),
        "training_logits": logits_model(x, training=True).numpy(),
    }
    set_weights()  # training=True has moved the moving statistics

    model.compile(optimizer=keras.optimizers.Adam(), loss="binary_crossentropy", jit_compile=False)
    losses = []
    for _ in range(steps):
        model.reset_metrics()  # or the loss would be the mean over the steps so far
        losses.append(model.train_on_batch(x, y))
    arrays["losses"] = np.array(losses, dtype=dtype)
    arrays["inference_logits_afterwards"] = logits_model(x, training=False).numpy()
    return arrays | {f"afterwards/{weight.path}": weight.numpy() for weight in model.weights}


def record_networks(rng: np.random.Generator) -> Arrays:
    weights = fixed_weights(build("before", 0.99, "float32")[0], rng)
    pixels, labels = fixed_batch(rng)
    arrays = {"pixels": pixels, "labels": labels} | {f"initial/{path}": w for path, w in weights.items()}
    for order in ORDERS:
        arrays |= parameter_counts(order)
        for momentum in MOMENTA:
            for dtype, steps in (("float32", 1), ("float64", 3)):
                recorded = record_steps(order, momentum, dtype, steps, weights, pixels, labels)
                for name, value in recorded.items():
                    if name.startswith("afterwards/") and not name.endswith(MOVING):
                        # Training never reads the moving statistics, so no weight depends on the momentum.
                        shared = f"{order}/{dtype}/{name}"
                        kept = value if dtype == "float32" else value.reshape(-1)[::SAMPLE_STRIDE]
                        np.testing.assert_array_equal(arrays.setdefault(shared, kept), kept, err_msg=shared)
                    else:
                        arrays[f"{order}/{momentum}/{dtype}/{name}"] = value
    return arrays


def record_zoom(rng: np.random.Generator) -> Arrays:
    image = rng.integers(0, 256, (32, 32, 3), dtype="u1")
    factors = np.array([(0.8, 0.8), (1.2, 1.2), (0.8, 1.2), (1.15, 0.9), (1.0, 0.85), (0.97, 1.0)])
    generator = ImageDataGenerator(zoom_range=0.2)
    outputs = [generator.apply_transform(image.astype("f4"), {"zx": zx, "zy": zy}) for zx, zy in factors]
    return {"zoom/image": image, "zoom/factors": factors, "zoom/outputs": np.stack(outputs)}


def record_resize(rng: np.random.Generator) -> Arrays:
    image = rng.integers(0, 256, (96, 96, 3), dtype="u1")
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="TIFF")
    return {
        "resize/image": image,
        "resize/output": np.asarray(keras.utils.load_img(file, target_size=(32, 32))),
    }


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)  # the same sums in the same order, every time
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(SEED)
    arrays = record_networks(rng) | record_zoom(rng) | record_resize(rng)
    arrays |= {
        "versions/keras": np.array(keras.__version__),
        "versions/tensorflow": np.array(tf.__version__),
        "versions/numpy": np.array(np.__version__),
    }
    np.savez_compressed(OUTPUT, **arrays)


if __name__ == "__main__":
    main()
