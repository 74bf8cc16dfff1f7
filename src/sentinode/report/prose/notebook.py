"""What the notebook that this project started from reported, for a page to put beside its own; of its data alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sentinode.config.run import NotebookModel
from sentinode.report.prose import verdicts as verdict_words
from sentinode.report.prose.numbers import MISSING, mean_and_spread, number
from sentinode.report.sections.tables import Table
from sentinode.runs.variant import Variant
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import Evidence

_FOR_REFERENCE: Final = (
    "The notebook's numbers come from one run each on 50,000 patches of the full set (random split, half epochs, last "
    "epoch); they are shown for reference, not as a target."
)


@dataclass(frozen=True)
class Claim:
    """Accuracies of the last epoch, one run, random split, half epochs."""

    training_accuracy: float
    validation_accuracy: float


_ORDERS: Final = {"before": Claim(0.8444, 0.7460), "after": Claim(0.8206, 0.8070)}
_MOMENTA: Final = {
    0.99: Claim(0.8409, 0.7505),
    0.75: Claim(0.8375, 0.8374),
    0.50: Claim(0.8431, 0.8449),
    0.25: Claim(0.8379, 0.8389),
}


def is_its_question(variants: Sequence[Variant]) -> bool:
    """Whether these are its network, on patches of the competition that it was trained on."""
    return all(
        run.record.origin == "competition" and not run.members and run.config.model.architecture == "notebook"
        for variant in variants
        for run in variant.runs
    )


def claim(variant: Variant) -> Claim | None:
    """Its figures for a variant, if it had such a one: table 1 by the order of batch norm, table 2 by momentum."""
    if not is_its_question([variant]):
        return None
    model = variant.runs[0].config.model
    assert isinstance(model, NotebookModel)
    if set(variant.settings) == {"model.norm"} and model.bn_momentum == 0.99:
        return _ORDERS[model.norm]
    if set(variant.settings) == {"model.bn_momentum"} and model.norm == "before":
        return _MOMENTA.get(model.bn_momentum)
    return None


def reference(variants: Sequence[Variant]) -> str:
    """What its figures are worth; "" where none of them is shown."""
    return _FOR_REFERENCE if any(map(claim, variants)) else ""


def last_epochs(variants: Sequence[Variant], colours: Sequence[str], caption: str) -> Table:
    """Its tables 1 and 2: accuracies of the last epoch, beside its own figures; ensembles have no epochs."""
    claims = [claim(variant) for variant in variants]
    head = ["variant", "training", "validation", "selected epoch, validation"]
    if any(claims):
        head += ["notebook: training", "notebook: validation"]
    rows = []
    for variant, claimed in zip(variants, claims, strict=True):
        last = [] if variant.blends else [run.history.iloc[-1] for run in variant.runs]
        row = [
            variant.name,
            mean_and_spread(epoch["training_accuracy"] for epoch in last) if last else MISSING,
            mean_and_spread(epoch["validation_accuracy"] for epoch in last) if last else MISSING,
            mean_and_spread(variant.distinct_scores("accuracy")),
        ]
        if claimed:
            row += [number(claimed.training_accuracy), number(claimed.validation_accuracy)]
        elif any(claims):
            row += [MISSING, MISSING]
        rows.append(row)
    return Table(caption, head, rows, swatches=colours)


def preference(comparison: Comparison, evidence: Evidence) -> str | None:
    """What it preferred beside our verdicts; None where it was asked something else."""
    if not is_its_question(comparison.variants):
        return None
    models = {variant.name: variant.runs[0].config.model for variant in comparison.variants}
    return verdict_words.notebook_preference(evidence, models)


def difference(comparison: Comparison) -> str | None:
    """Its own difference between its two variants beside ours; None where it had no such two."""
    if len(comparison.variants) != 2:
        return None
    first, second = comparison.variants
    claimed, other = claim(first), claim(second)
    if claimed is None or other is None:
        return None
    stated = other.validation_accuracy - claimed.validation_accuracy
    ours = [
        float(b.history["validation_accuracy"].iloc[-1] - a.history["validation_accuracy"].iloc[-1])
        for a, b in zip(first.runs, second.runs, strict=True)
    ]
    return (
        f"The notebook reported “{second.name}” minus “{first.name}” as {stated:+.4f} in the validation accuracy of "
        f"the last epoch, from one run; here the difference is {_signed(ours)}."
    )


def _signed(values: Sequence[float]) -> str:
    text = mean_and_spread(values)
    return text if text.startswith("-") else f"+{text}"
