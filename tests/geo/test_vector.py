import warnings

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import pytest
import shapely

from hook.errors import DataError, SceneError
from hook.geo.vector import (
    DRIVERS,
    driver_of,
    is_vector_file,
    read_vectors,
    table_text,
    vector_batches,
)

BOXES = shapely.box(np.arange(3.0), 0, np.arange(3.0) + 1, 1)


@pytest.fixture
def table():
    fields = {"number": [3, 1, 2], "name": ["a", "b", "c"]}
    return geopandas.GeoDataFrame(fields, geometry=BOXES, crs="EPSG:4326")


@pytest.fixture
def write(tmp_path, table):
    """Write the table in the format of an ending."""

    def written(suffix, **options):
        path = tmp_path / f"table{suffix}"
        if suffix == ".parquet":
            table.to_parquet(path)
        else:
            table.to_file(path, **options)
        return path

    return written


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp", ".parquet"])
def test_every_format_is_read(write, table, suffix):
    path = write(suffix)
    assert is_vector_file(path)
    found = read_vectors(path).sort_values("number")
    expected = table.sort_values("number")
    assert found.number.tolist() == [1, 2, 3] and found.crs == table.crs
    # Shapefiles turn the rings.
    assert shapely.equals(found.geometry.to_numpy(), expected.geometry.to_numpy()).all()


def test_a_layer_is_chosen_and_an_absent_one_named(write, table, tmp_path):
    path = write(".gpkg", layer="first")
    table.iloc[:1].to_file(path, layer="second")
    assert len(read_vectors(path, layer="second")) == 1
    assert len(read_vectors(path, layer=0)) == 3
    assert read_vectors(path, layer="first", index_by_id=True).index.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match=r"table\.gpkg cannot be read") as caught:
        read_vectors(path, layer="third")
    assert "third" in str(caught.value.found)


def test_a_second_layer_is_warned_of_unless_one_is_named(write, table, tmp_path):
    path = tmp_path / "town.gpkg"
    plain = table.drop(columns="geometry")
    pyogrio.write_dataframe(plain, path, layer="notes")  # without geometries: not meant
    table.to_file(path, layer="houses")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_vectors(path)) == 3
        with vector_batches(path) as found:
            assert found.count == 3
    table.iloc[:1].to_file(path, layer="roads")
    with pytest.warns(UserWarning, match=r"2 layers: houses \(Polygon\), roads") as caught:
        assert len(read_vectors(path)) == 3
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_vectors(path, layer="roads")) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), ("3.0", "3"), (" a ", "a"), ("-2.00", "-2"), (0.5, "0.5"), ("v1.0", "v1.0")],
)
def test_values_of_tables_as_text(value, text):
    assert table_text(value) == text


@pytest.mark.parametrize("error", [DataError, SceneError])
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".geojson"])
def test_what_cannot_be_read_is_named(tmp_path, suffix, error):
    options = dict(what="zones", expected="zones of something", error=error)
    with pytest.raises(error, match="zones cannot be read") as caught:
        read_vectors(tmp_path / f"none{suffix}", **options)
    assert caught.value.found == "no such file" and caught.value.expected == "zones of something"
    (tmp_path / f"text{suffix}").write_text("no features")
    with pytest.raises(error, match="cannot be read"):
        read_vectors(tmp_path / f"text{suffix}", **options)


def test_a_table_without_geometries_is_refused(tmp_path):
    (tmp_path / "bare.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no geometries") as caught:
        read_vectors(tmp_path / "bare.csv")
    assert "a, b" in caught.value.found
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(DataError, match="bare.parquet cannot be read"):
        read_vectors(tmp_path / "bare.parquet")


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet"])
def test_batches_hold_what_the_file_does(write, table, suffix):
    path = write(suffix)
    read = read_vectors(path)
    with vector_batches(path) as file:
        assert file.count == 3 and file.crs == table.crs
        assert file.schema.names == ["number", "name"]
        parts = list(file.batches)
    fields = pa.Table.from_batches([batch for batch, _ in parts]).to_pydict()
    assert fields == {"number": read.number.tolist(), "name": read.name.tolist()}
    geometry = np.concatenate([shapes for _, shapes in parts])
    assert shapely.equals(geometry, read.geometry.to_numpy()).all()


def test_the_ending_says_the_format():
    assert {driver_of(f"a{suffix.upper()}") for suffix in DRIVERS} == set(DRIVERS.values())
    with pytest.raises(SceneError, match="unknown vector format"):
        driver_of("a.txt")
