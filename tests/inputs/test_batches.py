"""Batches: every patch once a pass, another order each pass, each batch a function of its number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import make_patches
from sentinode.config.run import PreprocessConfig
from sentinode.inputs.batches import BatchStream
from sentinode.inputs.preprocess import prepare


def stream(*, count: int = 50, batch_size: int = 8, seed: int = 1, shuffle: bool = True) -> BatchStream:
    patches = make_patches(count)
    prepared = prepare(patches, np.arange(count), PreprocessConfig(), budget_mb=100)
    return BatchStream(prepared, patches.labels, batch_size=batch_size, seed=seed, shuffle=shuffle)


def rows_of(batches: BatchStream, numbers: range) -> list[int]:
    return [row for number in numbers for row in batches.batch(number).rows.tolist()]


def test_a_pass_sees_every_patch_once_and_the_last_batch_is_the_rest() -> None:
    batches = stream()
    assert batches.batches_per_pass == 7
    assert sorted(rows_of(batches, range(7))) == list(range(50))
    assert len(batches.batch(6).rows) == 2


def test_passes_differ_and_seeds_differ() -> None:
    batches = stream()
    assert rows_of(batches, range(7)) != rows_of(batches, range(7, 14))
    assert rows_of(batches, range(7)) != rows_of(stream(seed=2), range(7))


def test_a_batch_depends_on_its_number_alone() -> None:
    forward, backward = stream(), stream()
    seen = {number: forward.batch(number).rows.tolist() for number in range(20)}
    assert all(backward.batch(number).rows.tolist() == seen[number] for number in reversed(range(20)))


def test_images_labels_and_rows_belong_together() -> None:
    batches, patches = stream(), make_patches(50)
    batch = batches.batch(3)
    assert batch.labels.tolist() == patches.labels[batch.rows].tolist()
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), batches.prepared[batch.rows])
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_the_notebooks_half_epochs_alternate_in_size_as_its_log_shows() -> None:
    """35,000 patches in batches of 32: epochs of 546 see 17,472 or, with the short batch, 17,464 patches."""
    batches = stream(count=35, batch_size=2)  # a thousandth: 18 batches a pass, the last of one patch
    sizes = [len(rows_of(batches, range(epoch * 8, (epoch + 1) * 8))) for epoch in range(6)]
    assert sizes == [16, 16, 15, 16, 15, 16]


def test_without_shuffling_the_order_is_the_data_s_own() -> None:
    assert rows_of(stream(shuffle=False), range(7)) == list(range(50))


def test_over_the_budget_pixels_are_made_on_demand_and_are_the_same() -> None:
    patches = make_patches(400)
    rows = np.random.default_rng(0).permutation(400)
    held = prepare(patches, rows, PreprocessConfig(), budget_mb=100)
    demanded = prepare(patches, rows, PreprocessConfig(), budget_mb=1)
    assert held.held is not None
    assert demanded.held is None
    some = np.array([5, 399, 0])
    assert np.array_equal(held[some], demanded[some])
    assert np.array_equal(held[slice(10, 20)], demanded[slice(10, 20)])


def test_labels_of_another_length_are_refused() -> None:
    batches = stream()
    with pytest.raises(ValueError, match="do not make batches"):
        BatchStream(batches.prepared, np.zeros(3, int), batch_size=2, seed=0, shuffle=True)
