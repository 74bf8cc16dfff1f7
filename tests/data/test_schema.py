"""Heads and schemas of tables, as they are looked at first."""

from __future__ import annotations

from pathlib import Path

from sentinode.data.listing import Column
from sentinode.data.tables import head_of


def test_a_table_is_told_by_its_rows_and_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,label,slide\n" + "".join(f"p{k},{k % 2},\n" for k in range(7)))
    head = head_of(tmp_path / "t.csv")
    assert (head.file, head.rows) == ("t.csv", 7)
    assert head.columns == (Column("id", "text", 0), Column("label", "numbers", 0), Column("slide", "text", 7))
    assert head.first == tuple((f"p{k}", str(k % 2), "") for k in range(5))
