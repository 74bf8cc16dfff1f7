"""Print id,probability,positive of every patch in a folder: python predict.py MODEL.onnx FOLDER."""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import sentinode

BATCH = 256


def main(model_file: str, folder: str) -> None:
    model = sentinode.load(model_file)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["id", "probability", "positive"])
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".png", ".tif", ".tiff", ".jpg"))
    for start in range(0, len(paths), BATCH):
        some = paths[start : start + BATCH]
        patches = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in some])
        probabilities, threshold = model(patches), model.threshold("youden")
        for path, probability in zip(some, probabilities, strict=True):
            table.writerow([path.stem, f"{probability:.6f}", int(probability > threshold)])


if __name__ == "__main__":
    main(*sys.argv[1:])
