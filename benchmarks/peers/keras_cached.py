"""Keras with a tf.data pipeline that holds the shrunk patches in memory and zooms batches with a Keras layer."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from images import read_small
from keras import layers
from keras_network import notebook_network, use_threads

from blocks import arguments, serve


def main() -> None:
    args = arguments()
    use_threads(args.threads)
    images, labels = read_small(args.data / "classes")
    zoom = layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), fill_mode="nearest")
    options = tf.data.Options()
    options.threading.private_threadpool_size = args.threads
    batches = (
        tf.data.Dataset.from_tensor_slices((images, labels.astype(np.float32)))
        .cache()
        .shuffle(len(labels))
        .batch(args.batch_size)
        .map(
            lambda batch, truth: (zoom(tf.cast(batch, tf.float32) / 255, training=True), truth),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )
    network = notebook_network()

    def epoch() -> int:
        network.fit(batches, epochs=1, verbose=0)
        return len(labels)

    serve(args.wire, epoch)


if __name__ == "__main__":
    main()
