"""What a page shows, saved for a paper: figures that stand alone, tables that say what the page says."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from sentinode.errors import RunError
from sentinode.report.pages.page import write_report
from sentinode.report.sections.tables import Table
from sentinode.report.shown import as_csv, as_latex

TABLE = Table("A & B, of 100 %.", ["name", "AUC_1", "note"], [["x\\y", "0.9 ± 0.1", "a~b"]], frozenset({"note"}))


def test_figures_and_tables_of_a_run_stand_alone(run_folder: Path, tmp_path: Path) -> None:
    write_report(run_folder)
    page = (run_folder / "report.html").read_bytes()
    write_report(run_folder, files=tmp_path / "files")
    figures = {path.name for path in (tmp_path / "files" / "figures").iterdir()}
    stems = {Path(name).stem for name in figures}
    assert figures == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "pdf", "png")}
    assert stems
    for stem in stems:
        root = ElementTree.parse(tmp_path / "files" / "figures" / f"{stem}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in ElementTree.tostring(root, encoding="unicode")
        assert (tmp_path / "files" / "figures" / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(tmp_path / "files" / "figures" / f"{stem}.png") as image:
            assert image.width == pytest.approx(85 / 25.4 * 300, abs=1)
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    tables = {path.name for path in (tmp_path / "files" / "tables").iterdir()}
    assert {name for name in tables if name.endswith(".csv")} == {f"{Path(n).stem}.csv" for n in tables}
    assert tables
    assert (run_folder / "report.html").read_bytes() == page
    with pytest.raises(RunError, match="is not empty"):
        write_report(run_folder, files=tmp_path / "files")


def test_a_table_in_both_forms() -> None:
    assert list(csv.reader(as_csv(TABLE).splitlines())) == [list(TABLE.head), *map(list, TABLE.rows)]
    written = as_latex(TABLE)
    assert r"\begin{tabular}{lrl}" in written
    assert r"\caption{A \& B, of 100 \%.}" in written
    assert r"x\textbackslash{}y & 0.9 $\pm$ 0.1 & a\textasciitilde{}b \\" in written
