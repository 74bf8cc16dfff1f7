"""Verdicts: the rule, Holm's correction and the number of seeds against hand-computed values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sentinode.evaluation.bootstrap import PairedInterval
from sentinode.evaluation.verdict import Question, Sameness, decide, holm, seeds_to_tell


def question(mean: float, *, spread: float = 0.005, by_seed: tuple[float, ...] = (0.01, 0.012, 0.014)) -> Question:
    replicates = np.random.default_rng(0).normal(mean, spread, 2000)
    return Question("after", "before", "AUC", interval_of(mean, replicates), np.array(by_seed), seeds_run=len(by_seed))


def interval_of(mean: float, replicates: np.ndarray) -> PairedInterval:
    low, high = np.quantile(replicates, [0.025, 0.975]).tolist()
    below, above = float(np.mean(replicates <= 0)), float(np.mean(replicates >= 0))
    return PairedInterval(
        mean, low, high, 0.95, share_a_better=float(np.mean(replicates > 0)), p_value=min(1.0, 2 * min(below, above))
    )


def verdict_of(asked: Question, smallest_effect: float = 0.005):
    return decide([asked], smallest_effect=smallest_effect)[0]


def test_a_clear_difference_is_called_better_and_its_mirror_worse() -> None:
    better = verdict_of(question(0.02))
    assert better.outcome == "better"
    assert better.low > 0
    assert better.p_better > 0.99
    assert "after is better than before by 0.020 AUC" in better.in_words()
    assert "3 of 3 seeds" in better.in_words()
    assert verdict_of(question(-0.02, by_seed=(-0.01, -0.02, -0.03))).outcome == "worse"


def test_of_a_score_of_which_less_is_better_the_lower_is_better() -> None:
    lower = question(-0.02, by_seed=(-0.01, -0.02, -0.03))
    interval = replace(lower.interval, share_a_better=1 - lower.interval.share_a_better)
    asked = replace(lower, metric="log loss", gain=-1, interval=interval)
    said = verdict_of(asked)
    assert said.outcome == "better"
    assert said.seeds_better == 3
    assert "after is better than before by 0.020 log loss" in said.in_words()
    assert "lower in 3 of 3 seeds" in said.in_words()
    mirrored = replace(asked, interval=replace(interval, low=0.01, high=0.03, estimate=0.02, share_a_better=0.0))
    assert verdict_of(mirrored).outcome == "worse"


def test_an_interval_over_zero_is_no_evidence_and_says_what_it_would_take() -> None:
    said = verdict_of(question(0.004))
    assert said.outcome == "no evidence"
    assert f"about {said.seeds_needed} seeds" in said.in_words()


def test_a_difference_too_small_to_matter_is_called_so() -> None:
    tiny = question(0.003, spread=0.0005)
    said = verdict_of(tiny, smallest_effect=0.005)
    assert said.outcome == "too small to matter"
    assert "less than 0.005, the smallest difference that matters" in said.in_words()
    assert verdict_of(tiny, smallest_effect=0.001).outcome == "better"


def test_one_run_never_gets_a_verdict() -> None:
    said = verdict_of(question(0.05, by_seed=(0.05,)))
    assert said.outcome == "too few seeds"
    assert said.seeds_needed is None
    assert "One run each cannot tell" in said.in_words()
    two = verdict_of(question(0.05, by_seed=(0.05, 0.06)))
    assert two.outcome == "too few seeds"
    assert "2 seeds are too few" in two.in_words()


def unknown(mean: float = 0.05) -> Question:
    """A difference on two slides."""
    nan, reason = float("nan"), "slides with tumour: 2; at least 3 would be needed"
    interval = PairedInterval(mean, nan, nan, 0.95, share_a_better=1.0, p_value=nan, reason=reason)
    return Question("after", "before", "AUC", interval, np.array([0.05, 0.06, 0.04]), seeds_run=3)


def test_too_few_slides_give_no_verdict_and_say_how_many_it_takes() -> None:
    said = verdict_of(unknown())
    assert said.outcome == "too few slides"
    assert "95 % interval unknown" in said.in_words()
    assert "Too few to tell: slides with tumour: 2; at least 3 would be needed" in said.in_words()
    assert "nan" not in said.in_words()


def test_what_is_equal_in_every_replicate_gets_no_verdict_and_is_not_blamed_on_slides() -> None:
    asked = unknown(0.0)
    still = replace(asked.interval, reason="equal in every replicate, which says nothing of other slides", still=True)
    said = verdict_of(replace(asked, interval=still))
    assert said.outcome == "no spread"
    assert said.in_words() == (
        "after minus before: +0.000 AUC (95 % interval unknown). The difference is equal in every replicate, which "
        "says nothing of other slides. No winner is named."
    )


def test_seeds_that_gave_one_network_are_one_seed() -> None:
    said = verdict_of(replace(question(0.05, by_seed=(0.05,)), seeds_run=3))
    assert said.outcome == "too few seeds"
    assert "3 seeds gave one network and count as 1 (folds would make them differ)" in said.in_words()
    some = verdict_of(replace(question(0.05, by_seed=(0.05, 0.06)), seeds_run=3))
    assert "3 seeds gave 2 networks and count as 2" in some.in_words()


@pytest.mark.parametrize("same", ["network", "predictions"])
def test_what_is_the_same_is_called_so_and_has_no_p_value(same: Sameness) -> None:
    said = verdict_of(replace(question(0.0), same=same))
    assert said.outcome == f"same {same}"
    assert np.isnan([said.p_value, said.p_holm]).all()
    assert ("same network" if same == "network" else "predict the same") in said.in_words()
    assert "evidence" not in said.in_words()


def test_questions_that_cannot_be_asked_do_not_make_the_others_harder() -> None:
    borderline = question(0.011, spread=0.005)
    alone = verdict_of(borderline)
    idle = [replace(question(0.0), same="network")] * 5 + [unknown()] * 5
    among = decide([*idle, borderline], smallest_effect=0.005)[-1]
    assert (among.outcome, among.p_holm) == ("better", alone.p_holm)


def test_where_no_verdict_is_asked_for_the_difference_is_told_and_no_question_counted() -> None:
    asked, unasked = question(0.02), replace(question(0.02), metric="mine", asked=False)
    answered, told = decide([asked, unasked], smallest_effect=0.005)
    assert answered.p_holm == answered.p_value
    assert told.outcome == "not asked"
    assert np.isnan(told.p_holm)
    assert "after minus before: +0.020 mine (95 % interval" in told.in_words()
    assert "No verdict was asked for" in told.in_words()


def test_many_questions_make_each_answer_harder() -> None:
    borderline = question(0.011, spread=0.005)
    assert verdict_of(borderline).outcome == "better"
    noise = [question(0.0, by_seed=(0.0, 0.01, -0.01)) for _ in range(9)]
    assert decide([borderline, *noise], smallest_effect=0.005)[0].outcome == "no evidence"


def test_holm_by_hand() -> None:
    """0.01, 0.04, 0.03 of three: 3 x 0.01, then 2 x 0.03, then 0.04 raised to what came before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02]
    nan = float("nan")
    assert holm([nan, 0.04, nan, 0.01]) == pytest.approx([nan, 0.04, nan, 0.02], nan_ok=True)


def test_seeds_to_tell_by_hand() -> None:
    """(1.960 + 0.842)^2 = 7.849: one standard deviation takes 8 pairs, half of one 32."""
    assert seeds_to_tell(1.0, 1.0) == 8
    assert seeds_to_tell(0.5, 1.0) == 32
    assert seeds_to_tell(1.0, 0.0) == 2


def test_the_rule_rarely_calls_a_winner_where_there_is_none() -> None:
    """Under no difference, a bootstrap centred on a noisy estimate: false verdicts in about 5 of 100."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        centre = rng.normal(0, 0.01)
        replicates = rng.normal(centre, 0.01, 1000)
        by_seed = rng.normal(centre, 0.01, 5)
        asked = Question("a", "b", "AUC", interval_of(centre, replicates), by_seed, seeds_run=5)
        wrong += verdict_of(asked, smallest_effect=0.001).outcome in ("better", "worse")
    assert wrong / 400 < 0.08
