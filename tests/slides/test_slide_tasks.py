"""Slides that an engine judges are what one process judges, byte for byte, and a bad one stops no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import make_patches
from in_turn import InTurn
from sentinode import Session, judge_slides
from sentinode.config.run import RunConfig
from sentinode.engine.shard import Shard
from sentinode.engine.task import Needs
from sentinode.runs.material import Material
from sentinode.runs.train import train_run
from slides.conftest import write_pyramid


@pytest.mark.usefixtures("undrawn", "in_onnxruntime")
def test_slides_that_an_engine_judges_are_what_one_process_judges(
    tissue_rgb: np.ndarray, session: Session, run_config: RunConfig, tmp_path: Path
) -> None:
    patches = make_patches()
    train_run(Material(patches, patches.groups, session=session), run_config, tmp_path / "run")
    slides = [
        write_pyramid(tmp_path / "one.tif", tissue_rgb),
        write_pyramid(tmp_path / "two.tif", tissue_rgb[:, ::-1]),
        tmp_path / "bad.tif",
    ]
    slides[2].write_bytes(b"no slide")
    judge_slides(tmp_path / "run", slides, tmp_path / "serial", session)
    engine, told = InTurn(), list[tuple[str, int, int]]()
    asked = replace(
        session, engine=engine, progress=lambda step, done, total, note="": told.append((step, done, total))
    )
    record = judge_slides(tmp_path / "run", slides, tmp_path / "many", asked, settings={"running.cpus": 2})
    assert [row.state for row in record.rows] == ["done", "done", "failed"]
    serial, many = (
        {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (tmp_path / "serial", tmp_path / "many")
    )
    assert serial.pop("report.html")
    assert many.pop("report.html")
    assert many == serial
    sizes = {path.stem: path.stat().st_size for path in slides}
    assert [task.name for task in engine.sent] == sorted(sizes, key=lambda name: -sizes[name])  # the bad one once
    assert {tuple(task.given["ways"]) for task in engine.sent} == {("onnxruntime",)}
    assert {task.needs for task in engine.sent} == {Needs(cpus=2)}
    assert ("slides", 3, 3) in told
    assert {step for step, done, total in told if done == total} >= {"judge one", "judge two", "slides"}

    again = InTurn()
    judge_slides(tmp_path / "run", slides, tmp_path / "many", replace(session, engine=again), resume=True)
    assert (tmp_path / "many" / "slides.csv").read_bytes() == serial["slides.csv"]

    shards = [Shard.parse(text) for text in ("2/2", "1/2")]
    parts = [judge_slides(tmp_path / "run", slides, tmp_path / "shards", session, shard=shard) for shard in shards]
    assert [[row.folder for row in part.rows] for part in parts] == [["two"], ["one", "bad"]]
    assert not (tmp_path / "shards" / "slides.csv").exists()
    judge_slides(tmp_path / "run", slides, tmp_path / "shards", session, resume=True)
    of_shards = {p.relative_to(tmp_path / "shards"): p.read_bytes() for p in (tmp_path / "shards").rglob("*.*")}
    assert all(of_shards[Path(name)] == content for name, content in serial.items())
