from __future__ import annotations

import numpy as np

from sentinode.data.chunks import in_blocks, map_chunks


def test_chunks_come_in_order_whole_and_contiguous() -> None:
    pixels = np.zeros((70, 96, 96, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(70)
    chunks = list(map_chunks(lambda row, chunk: (row, chunk), pixels, workers=3))
    assert [row for row, _ in chunks] == [0, 32, 64]
    assert np.array_equal(np.concatenate([chunk for _, chunk in chunks]), pixels)


def test_blocks_hold_every_result_once_and_in_order() -> None:
    blocks = list(in_blocks(iter(range(1100))))
    assert [len(block) for block in blocks] == [512, 512, 76]
    assert [result for block in blocks for result in block] == list(range(1100))
    assert list(in_blocks(iter([]))) == []
