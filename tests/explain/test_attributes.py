"""Tables of further attributes, read by id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.config.run import DataConfig
from sentinode.errors import DataError
from sentinode.explain.attributes import attributes_of_folder, quantile_groups, read_attributes
from sentinode.settings import override

TABLE = "id,size,scanner,note\na.tif,3,x,1e3\nimages/b.png,,NA,yes\nc,NaN, y ,2\n"
IDS = np.array(["a", "z"])


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_columns_are_numbers_where_every_known_cell_is_one(tmp_path: Path) -> None:
    table = read_attributes(write(tmp_path / "t.csv", TABLE))
    assert table.index.tolist() == ["a", "b", "c"]
    assert table["size"].tolist() == pytest.approx([3.0, np.nan, np.nan], nan_ok=True)
    assert table["scanner"].tolist() == ["x", "", "y"]
    assert table["note"].tolist() == ["1e3", "yes", "2"]


def test_infinity_is_no_number(tmp_path: Path) -> None:
    assert read_attributes(write(tmp_path / "t.csv", "id,x\na,inf\nb,1\n"))["x"].tolist() == ["inf", "1"]


def test_an_id_may_stand_twice_with_the_same_values_only(tmp_path: Path) -> None:
    assert len(read_attributes(write(tmp_path / "t.csv", "id,x,y\na,1,\na.tif,1,\n"))) == 1
    with pytest.raises(DataError, match=r"1 ids have two different rows \(first: a\)"):
        read_attributes(write(tmp_path / "t.csv", "id,x,y\na,1,\na,1,2\n"))


@pytest.mark.parametrize("text", ["id\na\n", "x,y\n1,2\n"])
def test_a_table_without_id_or_properties_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must have the column id and one for each property"):
        read_attributes(write(tmp_path / "t.csv", text))


def test_the_table_is_the_one_named_or_that_of_the_folder(tmp_path: Path) -> None:
    assert attributes_of_folder(tmp_path, DataConfig(), IDS) is None
    write(tmp_path / "attributes.csv", "id,x\na,1\n")
    named = DataConfig(attributes=write(tmp_path / "other.csv", "id,y\na,2\n"))
    for config, column in ((DataConfig(), "x"), (named, "y"), (override(named, {"attributes": "none"}), "x")):
        table = attributes_of_folder(tmp_path, config, IDS)
        assert table is not None
        assert list(table.columns) == [column]


def test_a_table_of_other_patches_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "attributes.csv", "id,x\nq,1\n")
    with pytest.raises(DataError, match="none of a training patch"):
        attributes_of_folder(tmp_path, DataConfig(), IDS)
    write(tmp_path / "attributes.csv", "id,brightness\na,1\n")
    with pytest.raises(DataError, match="a column brightness, which is computed"):
        attributes_of_folder(tmp_path, DataConfig(), IDS)


def test_a_phantom_tells_the_tumour_fraction_of_every_patch(phantom_folder: Path) -> None:
    truth = pd.read_csv(phantom_folder / "truth.csv", dtype={"id": str}).set_index("id")
    table = attributes_of_folder(phantom_folder, DataConfig(), truth.index.to_numpy(dtype=str))
    assert table is not None
    assert table["tumour_fraction"].to_dict() == truth["tumour_fraction"].to_dict()


def test_parts_have_equal_size_and_say_their_bounds() -> None:
    values = np.r_[np.arange(34, 114, dtype=float), np.nan]
    names = quantile_groups("brightness", np.random.default_rng(0).permutation(values))
    found = dict(zip(*np.unique(names, return_counts=True), strict=True))
    assert found == {
        "": 1,
        "brightness 1 of 4 (34-53)": 20,
        "brightness 2 of 4 (54-73)": 20,
        "brightness 3 of 4 (74-93)": 20,
        "brightness 4 of 4 (94-113)": 20,
    }


def test_equal_values_stay_together() -> None:
    fractions = np.array([0.0] * 7 + [0.25, 0.5, 1.0])
    names = quantile_groups("tumour fraction", fractions)
    assert names[0] == "tumour fraction 1 of 2 (0-0)"
    assert (names[:7] == names[0]).all()
    assert names[7:].tolist() == ["tumour fraction 2 of 2 (0.25-1)"] * 3
    assert set(quantile_groups("density", np.full(3, 0.123456))) == {"density 1 of 1 (0.123-0.123)"}
    assert quantile_groups("density", np.arange(4, dtype=np.int16), parts=2)[0] == "density 1 of 2 (0-1)"
    assert quantile_groups("density", np.full(2, np.nan)).tolist() == ["", ""]


def test_many_parts_sort_by_number() -> None:
    names = quantile_groups("brightness", np.arange(100.0), parts=12)
    assert list(np.unique(names)) == list(dict.fromkeys(names.tolist()))
