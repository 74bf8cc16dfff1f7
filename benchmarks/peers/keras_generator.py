"""The notebook's way: ImageDataGenerator reads the files of two class folders anew in every epoch."""

from __future__ import annotations

import tensorflow as tf
from keras_network import notebook_network, use_threads

from blocks import arguments, serve


def main() -> None:
    args = arguments()
    use_threads(args.threads)
    generator = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255, zoom_range=0.2)
    batches = generator.flow_from_directory(
        args.data / "classes",
        target_size=(32, 32),
        interpolation="nearest",
        class_mode="binary",
        batch_size=args.batch_size,
        seed=25,
    )
    network = notebook_network()

    def epoch() -> int:
        network.fit(batches, epochs=1, verbose=0)
        return int(batches.n)

    serve(args.wire, epoch)


if __name__ == "__main__":
    main()
