"""The notebook's network in Keras, as the notebook compiles it."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers


def use_threads(count: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)


def notebook_network() -> keras.Model:
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 3), layers.BatchNormalization(), layers.Activation("relu"), layers.MaxPooling2D(3),
            layers.Conv2D(64, 3), layers.BatchNormalization(), layers.Activation("relu"), layers.MaxPooling2D(3),
            layers.Flatten(),
            layers.Dense(128), layers.BatchNormalization(), layers.Activation("relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )  # fmt: skip
    network.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return network
