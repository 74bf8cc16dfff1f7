"""sentinode packs a competition folder's training part into a cache on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from blocks import arguments, serve
from sentinode.data.cache import pack
from sentinode.data.competition import read_competition


def main() -> None:
    args = arguments()
    listing = read_competition(args.data / "competition").training
    with TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        serve(
            args.wire,
            lambda: len(pack(listing, cache, workers=args.threads)[0]),
            before=lambda: shutil.rmtree(cache, ignore_errors=True),
        )


if __name__ == "__main__":
    main()
