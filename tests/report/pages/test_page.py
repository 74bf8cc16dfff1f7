from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from conftest import blank_figures
from sentinode.errors import RunError
from sentinode.report.pages.page import write_report, write_run_page
from sentinode.runs.run import Run

Write = Callable[..., Path]
NOTE = "phantom: synthetic tissue"
PHANTOM_AT_RANDOM = {"drawn": False, "note": NOTE, "basis": "random", "settings": {"split.by": "random"}}
ONE_SEED = {"drawn": False, "seeds": (25,)}
FIRST = "0" * 40
"""The id of the first example patch."""


class Page(HTMLParser):
    """Tags with their attributes, and the text a reader sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag in ("style", "script", "title"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += " " + " ".join(data.split())

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


class Prose(HTMLParser):
    """The sentences of paragraphs and lists, without captions, model card and checklists."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.sentences: list[str] = []
        self._block = ""
        self._inside = ""
        self.feed(re.sub(r'<section id="standards".*?</section>|<(nav|figure).*?</\1>', "", source, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("p", "li") and ("class", "caption") not in attrs:
            self._inside, self._block = tag, ""

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            found = re.split(r"(?<=[.?!]) ", " ".join(self._block.split()))
            self.sentences += [sentence for sentence in found if sentence.endswith((".", "?", "!"))]
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._block += data


def pages(folder: Path) -> list[Page]:
    """A study's page, its check's and one of its runs'."""
    names = ("report.html", "check.html", "runs/before-seed25/report.html")
    return [Page(folder / name) for name in names]


def test_nothing_is_requested_from_outside(rendered: Write) -> None:
    for page in pages(rendered()):
        for tag, attributes in page.tags:
            assert tag not in ("script", "link", "iframe", "object")
            for key in ("src", "href", "xlink:href"):
                target = attributes.get(key, "#")
                assert target.startswith(("data:image/png;base64,", "#")) or target == "check.html"
        for target in re.findall(r"url\(([^)]*)\)", page.source):
            assert target.startswith("#")
        assert "@import" not in page.source


def test_every_page_says_what_the_data_are_and_no_page_says_so_without_a_note(rendered: Write) -> None:
    for page in pages(rendered(**PHANTOM_AT_RANDOM)):
        assert page.text.count(NOTE) >= 2
        assert f'@top-center {{ content: "{NOTE}"' in page.source  # on every printed sheet
    for page in pages(rendered()):
        assert "phantom" not in page.source


def test_a_random_split_is_marked_wherever_scores_stand(rendered: Write) -> None:
    study, _, run = pages(rendered(**PHANTOM_AT_RANDOM))
    for page in (study, run):
        assert "The split ignores slides" in page.text
        assert page.text.count("random split: ignores slides") >= 4


def test_a_split_by_slide_brings_no_warning(rendered: Write) -> None:
    study, _, run = pages(rendered())
    for page in (study, run):
        assert "ignores slides." not in page.text
        assert "split by slide" in page.text


def test_tables_show_the_mean_and_deviation_over_seeds(rendered: Write) -> None:
    page = pages(rendered())[0]
    # 0.70, 0.80, 0.90: mean 0.80, deviations -0.1, 0, 0.1, so sqrt(0.02 / 2) = 0.1.
    assert "0.8000 ± 0.1000" in page.text
    # 0.60, 0.70, 0.65: mean 0.65, sqrt(0.005 / 2) = 0.05.
    assert "0.6500 ± 0.0500" in page.text
    assert "mean ± standard deviation over 3 seeds" in page.text
    assert "0.7460" in page.text  # what the notebook reported for "before"


def test_one_seed_names_no_winner(rendered: Write) -> None:
    page = pages(rendered(**ONE_SEED))[0]
    assert " scores " not in page.text[: page.text.index("Which model is used?")]
    assert "the spread between seeds is not known" in page.text
    assert "Table 1. Accuracy after the last epoch: one run." in page.text
    assert "±" not in page.text


@pytest.mark.parametrize("fields", [{}, PHANTOM_AT_RANDOM, ONE_SEED], ids=["plain", "random", "one seed"])
def test_each_sentence_is_said_once(rendered: Write, fields: dict[str, object]) -> None:
    """But for the checklists, which quote the model card, and it the rest of the page."""
    for page in pages(rendered(**fields)):
        prose = Prose(page.source).sentences
        assert len(prose) > 2
        assert [told for told, count in Counter(prose).items() if count > 1] == []


def test_a_study_begins_with_its_answers_and_what_to_know_before_believing_them(rendered: Write) -> None:
    source = pages(rendered(**PHANTOM_AT_RANDOM))[0].source
    begins = [
        "Is “after” better than “before”?",
        "“after” is the same network as “before”",
        "Based on 3 seeds",
        "Forest plot",
        "Which model is used?",
        "The split ignores slides",
        "How to read this page",
        'id="compare"',
    ]
    places = [source.index(text) for text in begins]
    assert places == sorted(places)


def test_the_best_trial_is_shown_with_its_command_and_what_is_folded_is_said_to_be(rendered: Write) -> None:
    page = pages(rendered())[0]
    assert "Best trial: bn_momentum 0.99" in page.text
    assert "sentinode train DATA --config study/runs/before-seed25/config.toml --out best" in page.text
    folded = [attributes for tag, attributes in page.tags if tag == "details" and "open" not in attributes]
    assert len(folded) > 15
    assert 'content: " (on screen only)"' in page.source


def test_a_check_begins_with_whether_the_data_can_be_used_and_what_to_beat(rendered: Write) -> None:
    text = pages(rendered())[1].text
    places = [
        text.index("Not yet: 1 finding to fix first, 1 warning."),
        text.index("A network should beat brightness alone, whose AUC is 0.75: positive patches are darker."),
        text.index("unusable images error 1 truncated replace them"),
        text.index("identical duplicates warning 1 pixel for pixel keep one of each"),
        text.index("Not found: flat patches."),
    ]
    assert places == sorted(places)


def test_every_chart_has_a_caption_of_its_own(rendered: Write) -> None:
    for page in pages(rendered()):
        captions = re.findall(r"</svg>\s*<figcaption>(.*?)</figcaption>", page.source, re.DOTALL)
        assert len(captions) == page.source.count("</svg>")
        assert all(captions)


def test_every_run_and_setting_is_shown(rendered: Write) -> None:
    folder = rendered()
    page = pages(folder)[0]
    for run in (folder / "runs").iterdir():
        assert run.name in page.text
    assert "model.norm = after, fit.seed = 27" in page.text
    assert "validation_fraction = 0.3" in page.text
    assert "libraries: torch 9.8.7" in page.text


def test_nothing_is_left_out_silently(rendered: Write) -> None:
    folder = rendered()
    page = pages(folder)[0]
    assert "sample: not selected 17" in page.text
    assert "sample.per_class 2,000 clipped to 20" in page.text
    check = pages(folder)[1]
    assert "rows without an image 3" in check.text
    assert "bad truncated" in check.text


def test_pictures_are_inside_and_have_a_name(rendered: Write) -> None:
    for page in pages(rendered())[:2]:
        images = [attributes for tag, attributes in page.tags if tag == "img"]
        assert images
        assert all(i["src"].startswith("data:image/png") and i["alt"] for i in images)
        assert FIRST in page.source or FIRST[:8] in page.text


def test_a_picture_that_is_not_there_is_said_to_be_missing(rendered: Write) -> None:
    # The folder of a run holds no pictures: its mistakes are told by id and probability.
    run = pages(rendered())[2]
    assert "no picture" in run.text
    assert "p = 0." in run.text


def test_names_from_the_data_cannot_become_markup(rendered: Write) -> None:
    evil = "</style><script>alert(1)</script>"
    folder = rendered(seeds=(25,), note=f'x"}} {evil}', slide=evil, notice=evil)
    for page in pages(folder):
        assert "<script" not in page.source
        assert all(tag != "script" for tag, _ in page.tags)


def test_ids_are_unique_and_every_reference_has_its_target(rendered: Write) -> None:
    for page in pages(rendered()):
        ids = page.ids()
        assert len(ids) == len(set(ids))
        referenced = set(re.findall(r'(?:href="|url\()#([^")]+)', page.source))
        assert referenced <= set(ids)


def test_pages_are_the_same_every_time(rendered: Write) -> None:
    run = rendered() / "runs" / "before-seed25"
    first = (run / "report.html").read_bytes()
    assert write_run_page(Run.open(run)).read_bytes() == first


def test_pages_are_drawn_from_records_without_timm_and_without_a_network(
    write_study: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = {"model.architecture": "timm", "model.backbone": "tf_efficientnet_lite0", "preprocess.size_px": 96}
    folder = write_study(seeds=(25,), settings=backbone, compared={"lite0": (0.7,)})
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("sentinode.runs.run.build", lambda *_args, **_options: pytest.fail("built a network"))
    with blank_figures():
        write_report(folder)
        write_run_page(Run.open(folder / "runs" / "lite0-seed25"))
    for name in ("report.html", "runs/lite0-seed25/report.html"):
        page = Page(folder / name)
        assert "1,025 parameters" in page.text
        assert "32 × 30 × 30" in page.text


@pytest.mark.parametrize("origin", ["PatchCamelyon", "phantom", "other"])
def test_data_of_others_get_no_sentence_about_the_notebook(rendered: Write, origin: str) -> None:
    settings = {"split.by": "random", "fit.keep": "last"}
    for page in pages(rendered(drawn=False, seeds=(25,), origin=origin, basis="random", settings=settings)):
        assert "notebook" not in re.sub(r'architecture (= ")?notebook"?', "", page.text)
    assert "The notebook" in pages(rendered())[0].text


def test_accessible_at_a_glance(rendered: Write) -> None:
    for page in pages(rendered()):
        assert ("html", {"lang": "en"}) in page.tags
        assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
        assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_report_finds_out_what_a_folder_is(rendered: Write, tmp_path: Path) -> None:
    shutil.copy(rendered() / "check.json", tmp_path)
    assert write_report(tmp_path) == [tmp_path / "check.html"]
    study, check, run = pages(rendered())
    assert "A study" in study.text
    assert "A check" in check.text
    assert "Run before-seed25" in run.text


@pytest.mark.parametrize("what", ["empty", "missing", "unfinished study", "unfinished run", "foreign check"])
def test_report_refuses_other_folders_in_one_line(what: str, write_study: Write, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    if what != "missing":
        folder.mkdir()
    match what:
        case "unfinished study":
            folder = write_study()
            (folder / "study.json").unlink()
        case "unfinished run":
            (folder / "checkpoint").mkdir()
        case "foreign check":
            (folder / "check.json").write_text("{}")
    with pytest.raises(RunError) as caught:
        write_report(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_print_changes_stands_last_so_that_no_rule_of_the_screen_undoes_it() -> None:
    css = resources.files("sentinode.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    _, found, last = css.partition("@media print {")
    assert found
    assert [line for line in last.splitlines() if line and not line.startswith(("  ", "}"))] == []
