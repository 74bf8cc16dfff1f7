from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.audit.concepts import NAMES
from sentinode.errors import DataError
from sentinode.explain.concepts import ConceptReport, concept_report
from sentinode.inference.predictions import Predictions
from sentinode.records import plain, read_record, write_record

PATCHES, SLIDES = 400, 16


class Made:
    """Patches of 16 slides: concepts drawn at random, a stain of each slide's own in brightness, and labels."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.slides = np.arange(PATCHES) % SLIDES
        self.table = pd.DataFrame(self.rng.normal(size=(PATCHES, len(NAMES))), columns=list(NAMES))
        self.table["brightness"] += 2 * self.rng.normal(size=SLIDES)[self.slides]
        self.labels = (self.rng.random(PATCHES) < 0.5).astype(np.int8)

    def report(self, logit: np.ndarray, clusters: np.ndarray | None = None) -> ConceptReport:
        ids = np.array([f"p{k}" for k in range(PATCHES)])
        predictions = Predictions(ids, self.labels, 1 / (1 + np.exp(-logit)))
        names = np.array([f"s{k}" for k in self.slides]) if clusters is None else clusters
        return concept_report("made", predictions, self.table, names, "slide", workers=1)


@pytest.fixture(scope="module")
def additive() -> ConceptReport:
    """2 x sharpness, 3 x the part of the centre's eosin above 0, and noise of variance 1, whatever the labels."""
    made = Made()
    made.table.loc[::7, "nuclear_size"] = np.nan
    bend = np.maximum(made.table["centre_eosin"].to_numpy(), 0)
    return made.report(2 * made.table["sharpness"].to_numpy() + 3 * bend + made.rng.normal(size=PATCHES))


OF_SHARPNESS, OF_EOSIN = 4.0, 9 * (0.5 - 0.5 / np.pi)
"""Their variances: of 2 x a standard normal, and of 3 x the positive part of one."""
OF_ALL = OF_SHARPNESS + OF_EOSIN + 1


def test_as_much_of_a_logit_is_explained_as_is_made_of_concepts(additive: ConceptReport) -> None:
    truth = (OF_SHARPNESS + OF_EOSIN) / OF_ALL
    assert additive.r2.estimate == pytest.approx(truth, abs=0.05)
    assert additive.r2.low < truth < additive.r2.high + 0.03  # what is fitted is not quite the truth
    assert (additive.folds, additive.clusters, additive.patches) == (10, SLIDES, PATCHES)


def test_each_concept_has_the_share_that_it_was_given(additive: ConceptReport) -> None:
    first, second, *others = additive.shares
    assert (first.concept, second.concept) == ("sharpness", "eosin")
    for share, truth in ((first, OF_SHARPNESS / OF_ALL), (second, OF_EOSIN / OF_ALL)):
        assert share.lost.low - 0.03 < truth < share.lost.high + 0.03
        assert share.alone.low - 0.03 < truth < share.alone.high + 0.03
    assert all(abs(of.lost.estimate) < 0.02 and of.alone.estimate < 0.05 for of in others)


def test_a_curve_follows_what_the_logit_does(additive: ConceptReport) -> None:
    curves = {curve.name: curve for curve in additive.curves}
    assert set(curves) == set(NAMES)
    line, bend = curves["sharpness"], curves["centre_eosin"]
    assert np.polyfit(line.measured, line.logit, 1)[0] == pytest.approx(2, abs=0.2)
    above = bend.measured > 0.3
    assert np.polyfit(bend.measured[above], bend.logit[above], 1)[0] == pytest.approx(3, abs=0.5)
    assert np.polyfit(bend.measured[bend.measured < -0.3], bend.logit[bend.measured < -0.3], 1)[0] == pytest.approx(
        0, abs=0.5
    )
    assert all(((of.low <= of.logit) & (of.logit <= of.high)).all() for of in additive.curves)
    others = [of for name, of in curves.items() if name not in {"sharpness", "centre_eosin"}]
    assert max(float(np.abs(of.logit).max()) for of in others) < 1
    assert np.mean([(of.low < 0) & (of.high > 0) for of in others]) > 0.85


def test_what_slides_have_of_their_own_explains_nothing_on_others() -> None:
    """A logit that is the slide's, and concepts that tell the slide: a model that had seen the slide would know it."""
    made = Made(1)
    of_slide = made.rng.normal(size=SLIDES)[made.slides]
    made.table["haematoxylin"] = made.slides.astype(float)
    found = made.report(3 * of_slide + 0.1 * made.rng.normal(size=PATCHES))
    assert found.r2.estimate < 0.15


def test_a_network_that_sees_colour_alone_knows_no_more_than_its_rival() -> None:
    made = Made(2)
    shift = made.labels - 0.5
    made.table["brightness"] = 1.5 * shift + made.rng.normal(size=PATCHES)
    found = made.report(2 * made.table["brightness"].to_numpy())
    assert found.auc.estimate == pytest.approx(found.concepts_auc.estimate, abs=0.05)
    assert found.gain.low < 0.03
    by_colour = next(matched for matched in found.matched if matched.by == "colour")
    assert by_colour.gain.low < 0.03  # a fifth is no point, so either still knows a little within
    assert found.colour_r2.estimate > 0.95


def test_a_network_that_sees_what_no_concept_says_is_seen_to() -> None:
    made = Made(3)
    logit = 3 * (made.labels - 0.5) + made.rng.normal(size=PATCHES)
    found = made.report(logit)
    assert found.r2.estimate < 0.05
    assert found.concepts_auc.high < 0.7
    assert found.gain.low > 0.2
    for matched in found.matched:
        assert matched.within.low > 0.9
        assert matched.gain.low > 0.2
        assert sum(of.patches for of in matched.bins) == PATCHES
        assert sum(of.positive for of in matched.bins) == made.labels.sum()
        assert all(a.high <= b.low for a, b in zip(matched.bins, matched.bins[1:], strict=False))
    matched = found.matched[0]
    assert matched.by == "brightness"
    brightness, ordered, pairs = made.table["brightness"].to_numpy(), 0, 0
    for of in matched.bins:
        inside = (brightness >= of.low) & (brightness <= of.high)
        positive, negative = (logit[inside & (made.labels == label)] for label in (1, 0))
        ordered += int((positive[:, None] > negative).sum())
        pairs += len(positive) * len(negative)
        assert (of.patches, of.positive) == (len(positive) + len(negative), len(positive))
    assert matched.within.estimate == pytest.approx(ordered / pairs, abs=2e-6)
    assert matched.gain.estimate == pytest.approx(matched.within.estimate - matched.rival_within.estimate, abs=1e-9)


def test_a_logit_that_never_changes_has_no_r2_and_says_why() -> None:
    made = Made(5)
    made.table["sharpness"] = np.nan
    found = made.report(np.full(PATCHES, 0.3))
    assert np.isnan(found.r2.estimate)
    assert found.r2.reason == "undefined: the logit is the same for all patches"
    assert found.auc.estimate == 0.5
    assert "sharpness" not in {curve.name for curve in found.curves}
    assert all((curve.logit == 0).all() for curve in found.curves)


def test_the_record_is_read_as_it_was_written(additive: ConceptReport, tmp_path: Path) -> None:
    write_record(tmp_path / "concepts.json", additive)
    assert plain(read_record(tmp_path / "concepts.json", ConceptReport)) == plain(additive)


def test_patches_without_labels_or_of_one_slide_are_refused() -> None:
    made = Made()
    with pytest.raises(DataError, match="too few slides"):
        made.report(np.zeros(PATCHES), np.full(PATCHES, "one"))
    for labels in (-1, 0, 1):
        made.labels = np.full(PATCHES, labels, np.int8)
        with pytest.raises(DataError, match="both classes"):
            made.report(np.zeros(PATCHES))
