"""Tables of predictions, of any program: read without a guess, paired, and weighed as runs are."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.api.experiments import compare_tables
from sentinode.apps.cli import run
from sentinode.config.presets import load_preset
from sentinode.config.study import StudyConfig
from sentinode.errors import DataError, RunError, SentinodeError
from sentinode.evaluation.metrics import auc
from sentinode.report.pages.page import write_report
from sentinode.settings import override

pytestmark = pytest.mark.usefixtures("undrawn")

N, SLIDES, SEEDS = 240, 12, (3, 5, 8)


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    return override(load_preset("fair"), {"compare.replicates": 300})


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., Path]:
    """Writes tables of patches whose labels and slides are in labels.csv and slides.csv."""
    rng = np.random.default_rng(0)
    ids, labels = [f"p{k:03}" for k in range(N)], np.arange(N) % 2
    pd.DataFrame({"id": ids, "label": labels}).to_csv(tmp_path / "labels.csv", index=False)
    slides = [f"s{k % SLIDES // 2}{k % 2}" for k in range(N)]
    pd.DataFrame({"id": ids, "slide": slides}).to_csv(tmp_path / "slides.csv", index=False)

    def table(name: str, noise: float, seeds: tuple[int, ...] = SEEDS) -> Path:
        parts = []
        for seed in seeds:
            logits = 2.0 * labels - 1 + rng.normal(0, noise, N)
            parts.append(pd.DataFrame({"id": ids, "probability": 1 / (1 + np.exp(-logits)), "seed": seed}))
        pd.concat(parts).sample(frac=1, random_state=1).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return table


def test_tables_get_the_verdict_that_runs_with_these_predictions_would(
    given: Callable[..., Path], config: StudyConfig, tmp_path: Path
) -> None:
    tables = [given("noisy.csv", 2.5), given("sharp.csv", 0.5)]
    labels, out = tmp_path / "labels.csv", tmp_path / "out"
    comparison, record = compare_tables(tables, labels, out, config, slides=tmp_path / "slides.csv")
    evidence = record.compare
    assert evidence is not None
    assert [variant.name for variant in comparison.variants] == ["noisy", "sharp"]
    assert comparison.seeds == SEEDS
    (verdict,) = evidence.verdicts
    assert (verdict.a, verdict.outcome, verdict.seeds) == ("sharp", "better", 3)
    assert evidence.clusters == SLIDES
    truth = pd.read_csv(labels).set_index("id")["label"]
    for variant, path in zip(comparison.variants, tables, strict=True):
        for (_, rows), score in zip(pd.read_csv(path).groupby("seed"), variant.scores("auc"), strict=True):
            alone = auc(truth[rows["id"]].to_numpy(), rows["probability"].to_numpy())
            assert score == pytest.approx(alone)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Is “sharp” better than “noisy”?" in page
    (out / "report.html").unlink()
    write_report(out)
    assert (out / "report.html").read_text(encoding="utf-8") == page
    kept = out / "predictions" / "2.csv"
    kept.write_text(kept.read_text().replace("p000,0,0.", "p000,0,0.9", 1))
    with pytest.raises(RunError, match="is not what was compared"):
        write_report(out)


def test_without_slides_no_interval_is_claimed_and_the_page_says_what_is_missing(
    given: Callable[..., Path], config: StudyConfig, tmp_path: Path
) -> None:
    tables = [given("noisy.csv", 2.5), given("sharp.csv", 0.5)]
    _, record = compare_tables(tables, tmp_path / "labels.csv", tmp_path / "out", config)
    evidence = record.compare
    assert evidence is not None
    assert record.slides_unknown == N
    assert evidence.verdicts[0].outcome == "too few slides"
    assert np.isnan(evidence.verdicts[0].low)
    assert all(np.isnan(found.low) for of in evidence.intervals.values() for found in of.values())
    assert "Slides are not known" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_patches_of_unknown_slide_count_as_one_and_never_as_many(
    given: Callable[..., Path], config: StudyConfig, tmp_path: Path
) -> None:
    tables = [given("noisy.csv", 2.5), given("sharp.csv", 0.5)]
    slides = pd.read_csv(tmp_path / "slides.csv")
    slides.loc[slides["slide"] == "s51", "slide"] = "NA"
    slides.to_csv(tmp_path / "some.csv", index=False)
    labels = tmp_path / "labels.csv"
    _, whole = compare_tables(tables, labels, tmp_path / "whole", config, slides=tmp_path / "slides.csv")
    _, part = compare_tables(tables, labels, tmp_path / "part", config, slides=tmp_path / "some.csv")
    assert part.slides_unknown == N // SLIDES
    assert whole.compare is not None
    assert part.compare is not None
    assert part.compare.clusters == whole.compare.clusters == SLIDES
    assert part.compare.verdicts == whole.compare.verdicts
    assert "20 of 240 patches are not known" in (tmp_path / "part" / "report.html").read_text(encoding="utf-8")


def test_the_tables_of_one_seed_and_of_the_competition_are_scored_without_a_verdict(
    given: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A submission id,label; a gzipped table; names of files for ids."""
    one = pd.read_csv(given("one.csv", 1.0, (0,)))
    one[["id", "probability"]].rename(columns={"probability": "label"}).to_csv(tmp_path / "sub.csv", index=False)
    other = one[["id", "probability"]].assign(id="train/" + one["id"] + ".tif", probability=one["probability"] ** 2)
    (tmp_path / "other.csv.gz").write_bytes(gzip.compress(other.to_csv(index=False).encode()))
    arguments = [str(tmp_path / name) for name in ("sub.csv", "other.csv.gz")]
    labels, slides = str(tmp_path / "labels.csv"), str(tmp_path / "slides.csv")
    assert run(["compare", *arguments, "--labels", labels, "--slides", slides, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "other minus sub: +0.000 AUC" in told
    assert "No winner is named" in told or "no winner is named" in told


BAD: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "logits": (lambda t: t.assign(probability=t["probability"] * 9 - 4), r"are not probabilities \(first: p\d+ has"),
    "words": (lambda t: t.assign(probability="yes"), "are not probabilities"),
    "a patch twice": (lambda t: pd.concat([t, t.iloc[:1]]), r"predicts 1 patches twice under seed"),
    "a patch missing": (lambda t: t[t["id"] != "p007"], r"lacks 1 of the 240 labelled patches under seed 3 .*p007"),
    "other patches": (lambda t: t.assign(id="q" + t["id"]), "predicts none of the labelled patches"),
    "no probability": (lambda t: t.rename(columns={"probability": "p_value"}), "must have the columns id and"),
    "half seeds": (lambda t: t.assign(seed=t["seed"] + 0.5), "seeds that are not whole numbers"),
    "other seeds": (lambda t: t.assign(seed=t["seed"] + 1), r"used other seeds \(4, 6, 9\)"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_table_that_would_mislead_is_refused_in_one_line(
    what: str, given: Callable[..., Path], config: StudyConfig, tmp_path: Path
) -> None:
    good, bad = given("good.csv", 1.0), given("bad.csv", 1.0)
    change, told = BAD[what]
    change(pd.read_csv(bad)).to_csv(bad, index=False)
    with pytest.raises(SentinodeError, match=told) as caught:
        compare_tables([good, bad], tmp_path / "labels.csv", tmp_path / "out", config, slides=tmp_path / "slides.csv")
    assert "\n" not in str(caught.value)


def test_equal_predictions_are_not_called_one_network(
    given: Callable[..., Path], config: StudyConfig, tmp_path: Path
) -> None:
    tables = [given("a.csv", 1.0), tmp_path / "b.csv"]
    tables[1].write_bytes(tables[0].read_bytes())
    _, record = compare_tables(
        tables, tmp_path / "labels.csv", tmp_path / "out", config, slides=tmp_path / "slides.csv"
    )
    evidence = record.compare
    assert evidence is not None
    assert evidence.verdicts[0].outcome == "same predictions"
    assert "weights" not in evidence.verdicts[0].in_words()


def test_a_seed_that_every_table_repeats_is_no_seed(
    given: Callable[..., Path], config: StudyConfig, tmp_path: Path
) -> None:
    tables = [given("a.csv", 1.0), given("b.csv", 2.0)]
    for path in tables:
        table = pd.read_csv(path)
        one = table[table["seed"] == SEEDS[0]]
        pd.concat([table, one.assign(seed=9)]).to_csv(path, index=False)
    with pytest.raises(RunError, match="says under seed 9 what it says under another"):
        compare_tables(tables, tmp_path / "labels.csv", tmp_path / "out", config)


def test_two_files_of_one_name_are_told_apart_by_their_folders(
    given: Callable[..., Path], config: StudyConfig, tmp_path: Path
) -> None:
    table = given("predictions.csv", 1.0)
    for name in ("unet", "ours"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.csv").write_bytes(table.read_bytes())
    places = [tmp_path / name / "predictions.csv" for name in ("unet", "ours")]
    comparison, _ = compare_tables(places, tmp_path / "labels.csv", tmp_path / "out", config)
    assert [variant.name for variant in comparison.variants] == ["unet/predictions", "ours/predictions"]
    with pytest.raises(DataError, match="two tables are called unet/predictions"):
        compare_tables([places[0], places[0]], tmp_path / "labels.csv", tmp_path / "again", config)


def test_the_command_line_says_what_tables_need_before_it_reads_them(
    given: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [str(given("a.csv", 1.0)), str(given("b.csv", 1.0))]
    out = ["--out", str(tmp_path / "out")]
    assert run(["compare", *tables, *out]) == 2
    assert "need --labels" in capsys.readouterr().err
    assert run(["compare", *tables, "--labels", str(tmp_path / "labels.csv"), "--seeds", "3", *out]) == 2
    assert "--seeds is for runs that are still to be trained" in capsys.readouterr().err
    assert run(["compare", tables[0], str(tmp_path / "c.csv"), "--labels", "labels.csv", *out]) == 2
    assert "c.csv: is missing" in capsys.readouterr().err
