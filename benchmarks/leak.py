"""How near is the validation score of each split to the score on unseen slides?

    python benchmarks/leak.py PHANTOM                              slides known; a third of them unseen, by seed
    python benchmarks/leak.py DATA --unseen SIDES --groups GROUPS  unseen: the validation side of id,side
    python benchmarks/leak.py DATA ... --clusters 50 --final LABELS  the same runs on the test part: once
    python benchmarks/leak.py DATA --slides SLIDES                 unseen: the patches whose slide the table leaves out

The labelled patches that are not unseen are split at random, by groups and, where slides are known, by slide. On each
training side the network of the preset `fair` is trained, with model.bn_momentum = 0.5. Its gap is the AUC on its own
validation side minus that on the unseen part. Each seed draws its own splits and weights and, of a phantom, unseen
slides. A "reduction" is what random's gap of the same seed is larger by, its 95 % interval Student's t over seeds.
Widths are of the validation AUC's 95 % interval under a bootstrap of patches, groups, clusters of stain or slides.
Runs in --folder that are finished are not trained again. With --engine several are trained at a time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from harness import add_engine, asked_engine, train_many
from sentinode.config.presets import load_preset
from sentinode.config.run import RunConfig
from sentinode.data.patches import PatchSet
from sentinode.data.tables import SLIDE_COLUMNS, read_column_by_id
from sentinode.evaluation.bootstrap import bootstrap
from sentinode.evaluation.metrics import auc
from sentinode.inference.predictions import Predictions
from sentinode.machine import default_cache
from sentinode.runs.load import classifier_of
from sentinode.runs.material import Gathered, Material, gather
from sentinode.runs.run import Run
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override
from sentinode.splits.split import VALIDATION, unite_groups

UNSEEN_SHARE = 1 / 3  # of a phantom's slides
LEVEL = 0.95
Row = dict[str, str | int | float]


@dataclass(frozen=True, eq=False)
class Case:
    """What the networks of one seed are trained on, and what none of them sees."""

    blind: Material  # slides made unknown
    sighted: Material | None  # where slides are known
    unseen: PatchSet


def phantom_cases(gathered: Gathered, truth: Path, seeds: Sequence[int]) -> Iterator[Case]:
    """Both parts of a phantom together; a third of the slides is unseen, others for each seed."""
    everything, check = gathered.check.packed.everything, gathered.check
    labels, found = read_column_by_id(truth, ("label",)), check.audit.groups
    ids = everything.ids.tolist()
    patches = replace(everything, labels=np.array([labels[i] for i in ids]).astype(np.int8))
    groups = unite_groups(patches.groups, np.array([str(found.get(i, "")) for i in ids]))
    slides = np.unique(patches.slides)
    for seed in seeds:
        drawn = np.random.default_rng(seed).choice(slides, round(len(slides) * UNSEEN_SHARE), replace=False)
        yield case_of(patches, groups, np.isin(patches.slides, drawn), gathered.material.session)


def case_of_known_slides(material: Material) -> Case:
    """Trained on: the patches whose slide is known. The others are of other slides, but for a few."""
    is_unseen = material.patches.slides == ""
    return case_of(material.patches, material.candidates.groups, is_unseen, material.session)


def of_unseen_slides(test: PatchSet, case: Case, slides: Path, labels: Path) -> PatchSet:
    """The test part's patches of known slides that none of a case's training slides is."""
    truth = read_column_by_id(labels, ("label",))
    slide_of = read_column_by_id(slides, SLIDE_COLUMNS)
    own = set(case.sighted.patches.slides.tolist()) if case.sighted is not None else set()
    ids = test.ids.tolist()
    unseen = np.array([slide_of.get(i, "") not in own | {""} for i in ids])
    patches = replace(test, labels=np.array([truth[i] for i in ids]).astype(np.int8))
    table = patches.rows(unseen)
    return PatchSet(table.ids, table.labels, table.slides, table.groups, patches.pixels[unseen])


def case_of(patches: PatchSet, groups: np.ndarray, is_unseen: np.ndarray, session: Session) -> Case:
    unknown = replace(patches, slides=np.full(len(patches), ""))
    known = (patches.slides[~is_unseen] != "").all()
    sighted = Material(patches, groups, eligible=~is_unseen, session=session) if known else None
    table = patches.rows(is_unseen)
    unseen = PatchSet(table.ids, table.labels, table.slides, table.groups, patches.pixels[is_unseen])
    return Case(Material(unknown, groups, eligible=~is_unseen, session=session), sighted, unseen)


def runs_of(case: Case, config: RunConfig, seed: int, top: Path) -> Iterator[tuple[str, Material, RunConfig, Path]]:
    """The name of each split, what is trained on it, and where."""
    for name in ("random", "grouped", "slide"):
        material = case.sighted if name == "slide" else case.blind
        if material is not None:
            by = "group" if name == "grouped" else name
            yield (
                name,
                material,
                override(config, {"split.by": by, "fit.seed": seed, "split.seed": seed}),
                top / f"{name}-{seed}",
            )


def cluster_names(case: Case, config: RunConfig, counts: Sequence[int]) -> dict[str, dict[str, str]]:
    """Each clustering that an interval may be drawn from: the cluster of each patch, "" for one on its own."""
    ids = case.blind.candidates.ids.tolist()
    found = {
        "patches": dict.fromkeys(ids, ""),
        "grouped": dict(zip(ids, case.blind.candidates.groups.tolist(), strict=True)),
    }
    for count in counts:
        own = override(config, {"data.stain_clusters": count})
        found[f"stain {count}"] = case.blind.clusters_by_id(own)
    if case.sighted is not None:
        found["slide"] = case.sighted.clusters_by_id(config)
    return found


def interval_width(predictions: Predictions, names: dict[str, str]) -> float:
    clusters = np.array([names[i] for i in predictions.ids.tolist()])
    rng, probabilities = np.random.default_rng(0), predictions.probabilities[None, None]
    drawn = bootstrap(predictions.labels, probabilities, clusters, rng=rng, metrics=["auc"], workers=1)
    interval = drawn.interval(0, "auc", LEVEL)
    return interval.high - interval.low


def measure(run: Run, case: Case, clusterings: dict[str, dict[str, str]], session: Session) -> Row:
    unseen = classifier_of([run], session.device).predictions(case.unseen)
    internal, unseen_auc = run.scores["auc"], auc(unseen.labels, unseen.probabilities)
    row: Row = {"internal": internal, "unseen": unseen_auc, "gap": internal - unseen_auc}
    row["patches"] = len(run.predictions)
    return row | {f"width {name}": interval_width(run.predictions, names) for name, names in clusterings.items()}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each split: mean and standard deviation over seeds, and the reduction of the gap with its interval."""
    gaps = rows.pivot_table(index="seed", columns="split", values="gap")
    lines = {}
    for name, own in rows.groupby("split", sort=False):
        line = {f"{what} mean": own[what].mean() for what in ("internal", "unseen", "gap")}
        line |= {f"{what} std": own[what].std() for what in ("internal", "unseen", "gap")}
        line["gap size"] = own["gap"].abs().mean()  # without its sign
        reduction = (gaps["random"] - gaps[name]).dropna().to_numpy(float)
        reach = stats.t.ppf((1 + LEVEL) / 2, len(reduction) - 1) * stats.sem(reduction)
        mean = float(reduction.mean())
        lines[name] = line | {"reduction": mean, "low": mean - reach, "high": mean + reach, "seeds": len(own)}
    return pd.DataFrame(lines).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for name, what in (
        ("unseen", "table id,side (default: a phantom's slides, drawn by seed)"),
        ("groups", "as data.groups"),
        ("slides", "as data.slides, for some of the patches: the others are the unseen ones"),
        ("final", "table id,label of the test part, which is then the unseen one"),
        ("folder", "keep the runs here (default: they are thrown away)"),
        ("out", "CSV of all rows, written after each"),
    ):
        parser.add_argument(f"--{name}", type=Path, help=what)
    parser.add_argument("--seeds", type=int, nargs="+", default=[25, 26, 27])
    parser.add_argument("--clusters", type=int, nargs="+", default=[8, 12, 16, 32])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--workers", type=int, default=2)
    add_engine(parser)
    options = parser.parse_args()

    settings = {"model.bn_momentum": 0.5, "fit.epochs": options.epochs}
    tables = {f"data.{name}": path for name in ("groups", "slides") if (path := getattr(options, name)) is not None}
    config = override(load_preset("fair").run_config(), settings | tables)
    session = Session(cache_root=options.cache, workers=options.workers, engine=asked_engine(options))
    gathered = gather(options.data, config, session)
    if options.slides is not None:
        case = case_of_known_slides(gathered.material)
        if options.final is not None and gathered.test is not None:
            case = replace(case, unseen=of_unseen_slides(gathered.test, case, options.slides, options.final))
        cases = [case] * len(options.seeds)
    elif options.unseen is None:
        cases = list(phantom_cases(gathered, options.data / "truth.csv", options.seeds))
    else:
        side, material = read_column_by_id(options.unseen, ("side",)), gathered.material
        is_unseen = np.array([side[i] == VALIDATION for i in material.candidates.ids.tolist()])
        case = case_of(material.patches, material.candidates.groups, is_unseen, session)
        if options.final is not None and gathered.test is not None:
            truth = read_column_by_id(options.final, ("label",))
            labels = np.array([truth[i] for i in gathered.test.ids.tolist()]).astype(np.int8)
            case = replace(case, unseen=replace(gathered.test, labels=labels))
        cases = [case] * len(options.seeds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        top = options.folder or Path(scratch)
        planned = [
            (seed, case, [*runs_of(case, config, seed, top)]) for seed, case in zip(options.seeds, cases, strict=True)
        ]
        if session.engine is not None:
            train_many((each[1:] for _, _, runs in planned for each in runs), session.engine)
        for seed, case, runs in planned:
            clusterings = cluster_names(case, config, options.clusters)
            for name, material, seeded, folder in runs:
                run = train_run(material, seeded, folder, resume=True)
                rows.append({"seed": seed, "split": name} | measure(run, case, clusterings, session))
                print(f"{seed} {name}: {rows[-1]['internal']:.4f} {rows[-1]['unseen']:.4f}", flush=True)
                if options.out is not None:
                    pd.DataFrame(rows).to_csv(options.out, index=False)
    table = pd.DataFrame(rows)
    print(summary(table).round(4).to_string())
    width = table.set_index("split").filter(like="width ").groupby(level=0, sort=False).mean()
    print("\nmean width of the validation AUC's interval" + ("; that of slides is 1" if "width slide" in width else ""))
    print(width.div(width.get("width slide", 1.0), axis=0).round(4).to_string())


if __name__ == "__main__":
    main()
