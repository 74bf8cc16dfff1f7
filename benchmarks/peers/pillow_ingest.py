"""Pillow decodes the files of a folder into memory, in one thread."""

from __future__ import annotations

import numpy as np
from images import decode

from blocks import arguments, serve


def main() -> None:
    args = arguments()
    files = sorted((args.data / "competition" / "train").iterdir())
    pixels = np.empty((len(files), 96, 96, 3), np.uint8)

    def decode_all() -> int:
        for row, path in enumerate(files):
            pixels[row] = decode(path)
        return len(files)

    serve(args.wire, decode_all)


if __name__ == "__main__":
    main()
