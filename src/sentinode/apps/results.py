"""Results on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sentinode.apps import console

if TYPE_CHECKING:
    from sentinode.explain.explanation import Explanation
    from sentinode.exports.certificate import Certificate
    from sentinode.runs.evaluate import Evaluation
    from sentinode.runs.run import Run
    from sentinode.runs.variant import R, Variant
    from sentinode.slides.cohort import CohortRecord
    from sentinode.slides.scores import SlideScores
    from sentinode.studies.comparison import Comparison
    from sentinode.studies.evidence import Evidence
    from sentinode.studies.study import FinishedStudy


def show_study(study: FinishedStudy) -> None:
    """Every question's means and what they amount to."""
    for question, found in study.comparisons.items():
        show = show_leak if question == "leak" else show_comparison
        show(found, study.evidence[question])


def show_comparison(comparison: Comparison[R], evidence: Evidence, *, side: str = "validation ") -> None:
    from sentinode.report.prose.verdicts import varied  # here: a table of scores does without the evidence

    show_variants(comparison, side=side)
    console.say(varied(evidence))
    for verdict in evidence.verdicts:
        console.say(verdict.in_words())


def show_leak(leak: Comparison, evidence: Evidence) -> None:
    from sentinode.report.prose.verdicts import inflation  # here: a table of scores does without the evidence

    show_variants(leak)
    for sentence in inflation(evidence):
        console.say(sentence)


def show_variants(comparison: Comparison[R], *, side: str = "validation ") -> None:
    from sentinode.evaluation.metrics import METRIC_NAMES  # here: --help does without NumPy

    metric = comparison.metric

    def spread(variant: Variant[R]) -> str:
        deviation = variant.standard_deviation(metric)
        if deviation is None:
            return "one seed" if len(variant.repeats) == 1 else "one network"
        return f"{deviation:.4f}"

    rows = [[variant.name, f"{variant.mean(metric):.4f}", spread(variant)] for variant in comparison.variants]
    console.show_table(f"{side}{METRIC_NAMES[metric]}", ["variant", "mean", "standard deviation"], rows)


def show_members(run: Run) -> None:
    """The members of an ensemble, beside it; nothing for a run of one network."""
    if not run.members:
        return
    pairs = zip(run.members, run.weights, strict=True)
    rows = [[member.name, f"{weight:.3f}", _number(member.scores["auc"])] for member, weight in pairs]
    blend = ["ensemble", f"{sum(run.weights):.3f}", _number(run.scores["auc"])]
    console.show_table("members", ["member", "weight", "validation auc"], [*rows, blend])


def show_trained(run: Run) -> None:
    """What must be known of a run that was just trained, its members, its validation scores and its split."""
    for text in run.environment["notices"]:
        console.notice(text)
    show_members(run)
    show_scores(f"{run.folder}: validation", run.scores)
    console.say(f"Split {run.environment['split']}")


def show_scores(title: str, scores: dict[str, float]) -> None:
    console.show_table(title, ["score", "value"], [[name, _number(value)] for name, value in scores.items()])


def show_evaluation(found: Evaluation) -> None:
    """What must be known first, then each score with its interval, and each slide."""
    from sentinode.evaluation.clusters import CLUSTER_NAMES  # here: NumPy takes its time

    for text in found.notices:
        console.notice(text)
    clusters = f"{found.intervals.clusters:,} {CLUSTER_NAMES[found.intervals.cluster_kind]}"
    rows = [[name, _number(of.estimate), _end(of.low), _end(of.high)] for name, of in found.scores.items()]
    title = f"{found.model} on {found.labels}: {found.patches:,} patches, 95 % intervals over {clusters}"
    console.show_table(title, ["score", "value", "low", "high"], rows)
    if found.slides:
        head = ["slide", "patches", "positive", "mean probability", "auc", "accuracy"]
        rows = [
            [
                slide.slide,
                str(slide.patches),
                str(slide.positive),
                *map(_number, (slide.mean_probability, slide.auc, slide.accuracy)),
            ]
            for slide in found.slides
        ]
        console.show_table("slide by slide, at the threshold 0.5", head, rows)
    console.say(f"computed by {' and '.join(found.runtimes)}")


def show_slides(record: CohortRecord) -> None:
    """Every slide's row; those that failed come first."""
    head = ["slide", "tissue mm2", "judged", "highest", "lesions", "tumour mm2", "largest", "what is wrong"]
    rows = [
        [
            row.folder,
            _number(row.tissue_mm2),
            f"{row.judged_share:.1%}" if math.isfinite(row.judged_share) else "",
            _number(row.max_probability),
            str(row.lesions),
            f"{row.tumour_mm2:.4f}",
            row.largest or "none",
            "; ".join(row.warnings),
        ]
        if row.state == "done"
        else [row.folder, *[""] * 6, row.reason]
        for row in sorted(record.rows, key=lambda row: row.state != "failed")
    ]
    console.show_table(f"{record.model}: lesions above {record.threshold:.4g} ({record.threshold_rule})", head, rows)
    if record.failed:
        console.notice(f"{len(record.failed)} of {len(record.rows)} slides failed; the others have their results")


def show_slide_scores(found: SlideScores) -> None:
    """Each score with its interval, the difference to another model, CAMELYON16's rules, and stages."""
    from sentinode.evaluation.froc import RATES
    from sentinode.slides.scores import rate_of, verdict

    for reason in dict.fromkeys(of.reason for of in found.scores.values() if of.reason):
        console.notice(f"95 % intervals are unknown: {reason}")
    normal = sum(not slide.annotated for slide in found.slides)
    if normal:
        console.notice(f"{normal} of {len(found.slides)} slides have no annotations, and count as normal")
    rows = [[rate_of(name), _number(of.estimate), _end(of.low), _end(of.high)] for name, of in found.scores.items()]
    console.show_table(f"{found.model} on {len(found.slides)} slides", ["score", "value", "low", "high"], rows)
    if found.official is not None:
        rows = [[f"sensitivity at {r:g}", f"{s:.4f}"] for r, s in zip(RATES, found.official.sensitivities, strict=True)]
        console.show_table(
            "CAMELYON16's rules", ["score", "value"], [*rows, ["FROC score", f"{found.official.froc:.4f}"]]
        )
    if found.differences:
        rows = [
            [rate_of(name), f"{of.estimate:+.4f}", _end(of.low), _end(of.high), _number(of.p_value)]
            for name, of in found.differences.items()
        ]
        title = f"{found.model} minus {found.against}, on the same drawn slides"
        console.show_table(title, ["score", "difference", "low", "high", "p"], rows)
        for name in ("froc", "slide_auc"):
            console.say(verdict(found, name))
    if found.stages is not None:
        rows = [[patient, truth, said] for patient, (truth, said) in found.stages.patients.items()]
        console.show_table(f"stages, kappa {_number(found.stages.kappa)}", ["patient", "truth", "heat maps"], rows)


def _number(value: float) -> str:
    """Four digits; patches that lack a class leave some scores undefined."""
    return f"{value:.4f}" if math.isfinite(value) else "undefined"


def _end(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "unknown"


def show_certificates(found: Mapping[str, Certificate]) -> None:
    """How far exports are from their run, by format and runtime."""
    rows = [
        [
            to,
            runtime,
            f"{of.largest_logit_difference:.1e}",
            f"{of.mean_logit_difference:.1e}",
            _number(of.auc_difference),
        ]
        for to, certificate in found.items()
        for runtime, of in certificate.runtimes.items()
    ]
    rows += [[to, runtime, why, "", ""] for to, of in found.items() for runtime, why in of.not_measured.items()]
    first = next(iter(found.values()))
    title = f"{first.name} beside its exports, on {first.patches:,} patches ({first.measured_on})"
    console.show_table(title, ["format", "runtime", "largest difference of logits", "mean", "AUC difference"], rows)
    for certificate in found.values():
        if certificate.int8 is not None:
            console.say(f"int8: {certificate.int8.told}")


def show_explanation(found: Explanation) -> None:
    """The exam, and in sentences what the model looks at."""
    from sentinode.report.sections.concepts import concepts_in_words
    from sentinode.report.sections.explanation import exam_in_words, exam_table

    table = exam_table(found.exam)
    console.show_table(table.caption, list(table.head), [list(row) for row in table.rows])
    for text in found.notices:
        console.notice(text)
    console.say(exam_in_words(found.exam))
    console.say(found.look.in_words)
    if found.concepts is not None:
        console.say(concepts_in_words(found.concepts))
    if found.rival is not None:
        console.say(f"{found.rival.model}: {found.rival.look.in_words}")
        for verdict in found.rival.verdicts:
            console.say(verdict.in_words())
