"""What is shown of a long step: on a terminal what runs, elsewhere a line at least every 30 seconds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sentinode.apps import console
from sentinode.apps.steps import QUIET_S, StepBars, StepLines, duration
from sentinode.progress import ALL_RUNS


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def screen(height: int = 24, width: int = 100) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=True, highlight=False, height=height, width=width), written


def test_a_step_that_is_over_is_one_line(clock: Clock) -> None:
    said: list[str] = []
    lines = StepLines(said.append, clock=clock)
    lines("pack", 100, 1100)  # the first hundred were there already
    clock.now += 4
    lines("pack", 1100, 1100, "all of them")
    lines.close()
    assert said == ["pack: 1,100 in 4.0 s, 250/s, all of them"]


def test_while_a_step_runs_a_line_comes_at_least_every_30_seconds(clock: Clock) -> None:
    said: list[str] = []
    lines = StepLines(said.append, clock=clock)
    lines(ALL_RUNS, 3, 40)
    lines("train before-seed25", 0, 20_000)
    for _ in range(600):  # ten minutes, in which the step itself speaks only once
        clock.now += 1
        lines.look()
        if clock.now == 300:
            lines("train before-seed25", 5_000, 20_000, "epoch 5 of 20: loss 0.412, AUC 0.871")
    lines.close()
    assert len(said) == 600 // QUIET_S
    assert said[0] == "train before-seed25: 0 of 20,000, 3 of 40 runs"
    # At 310 s of its time: a quarter took 210 s so far, so three times as much is left.
    assert said[6] == (
        "train before-seed25: 5,000 of 20,000, 10 min left, epoch 5 of 20: loss 0.412, AUC 0.871, 3 of 40 runs"
    )


def test_nothing_is_said_of_steps_that_are_over_or_before_any(clock: Clock) -> None:
    said: list[str] = []
    lines = StepLines(said.append, clock=clock)
    clock.now += 100
    lines.look()
    lines("check", 5, 5)
    clock.now += 100
    lines.look()
    lines.close()
    assert said == ["check: 5 in 0.0 s"]


def test_a_study_on_a_small_screen_shows_what_runs_and_never_dots(clock: Clock) -> None:
    terminal, written = screen(height=6)
    said: list[str] = []
    bars = StepBars(said.append, terminal, clock=clock)
    bars(ALL_RUNS, 0, 30)
    for run in range(30):
        bars(f"train run{run}", 0, 100)
        clock.now += 60
        bars(f"train run{run}", 50, 100, "epoch 1 of 2: loss 0.5, AUC 0.8")
        shown = [task.description for task in bars._bars.tasks]
        assert shown == [ALL_RUNS, f"train run{run}"]
        bars(f"train run{run}", 100, 100)
        bars(ALL_RUNS, run + 1, 30)
    bars.close()
    assert said[0] == "train run0: 100 in 60 s, 1.7/s, epoch 1 of 2: loss 0.5, AUC 0.8"
    assert len(said) == 30
    assert "..." not in written.getvalue()
    assert "…" not in written.getvalue()
    assert "29 min left" in written.getvalue()  # a run takes a minute, and one of 30 is done


def test_prose_wraps_at_words_on_a_terminal_and_a_path_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, written = screen(width=40)
    monkeypatch.setattr(console, "stdout", terminal)
    path = "/a/rather/long/folder/of/a/study/that/no/line/holds/report.html"
    console.say(f"No evidence of a difference between before and after; see {path}")
    lines = written.getvalue().splitlines()
    assert lines == ["No evidence of a difference between", "before and after; see", path]


def test_elsewhere_a_sentence_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(console, "stdout", Console(file=written, width=40))
    console.say("word " * 60)
    assert len(written.getvalue().splitlines()) == 1


@pytest.mark.parametrize(("seconds", "said"), [(0.04, "0.0 s"), (47, "47 s"), (719, "12 min"), (12_600, "3.5 h")])
def test_durations_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said
