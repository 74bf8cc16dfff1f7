"""Seeds by purpose: which numbers they are made of, and that no two purposes share what they draw."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from sentinode.randomness import Purpose

OF_A_RUN = [
    purpose for purpose in Purpose if purpose not in (Purpose.COPIES, Purpose.DIFFERENCES, Purpose.VARIANT_CURVES)
]


def test_a_seed_is_made_of_whose_it_is_the_purpose_and_which() -> None:
    assert Purpose.OWN_METRICS.parts(25) == [25, 2, 9]
    assert Purpose.VARIANT_CURVES.parts(25, 300, then=(4,)) == [25, 300, 1, 4]
    expected = int(np.random.SeedSequence([25, 2, 9]).generate_state(1, np.uint64)[0]) & (2**63 - 1)
    assert Purpose.OWN_METRICS.seed(25) == expected
    assert np.array_equal(Purpose.OWN_METRICS.rng(25).random(3), np.random.default_rng(expected).random(3))


def test_what_a_runs_seed_decides_does_not_depend_on_another_purpose() -> None:
    """Equal numbers are those of draws by different generators: NumPy's of an order, PyTorch's of all the others."""
    orders = {Purpose.ORDER, Purpose.VALIDATION_ORDER}
    for a, b in combinations(OF_A_RUN, 2):
        if len({a, b} & orders) != 1:
            assert a.parts(25) != b.parts(25) or {a, b} == {Purpose.WHILE_TRAINING, Purpose.TRIAL}, (a, b)
