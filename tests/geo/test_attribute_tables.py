import os
import warnings
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import rasterio.shutil

from hook.geo.styles import read_category_names, write_category_names


def pam(columns, rows, **attributes):
    """A side file with a table; columns of (name, type, usage) as GDAL numbers them."""
    dataset = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(dataset, "PAMRasterBand", band="1")
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", attributes)
    for texts in columns:
        field = ElementTree.SubElement(table, "FieldDefn")
        for tag, text in zip(("Name", "Type", "Usage"), texts, strict=True):
            ElementTree.SubElement(field, tag).text = str(text)
    for number, values in enumerate(rows):
        row = ElementTree.SubElement(table, "Row", index=str(number))
        for value in values:
            ElementTree.SubElement(row, "F").text = str(value)
    return ElementTree.tostring(dataset)


@pytest.fixture
def mask(tmp_path):
    path = tmp_path / "mask.tif"
    profile = dict(width=8, height=8, count=1, dtype="uint8", crs="EPSG:32633")
    transform = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **profile) as file:
        file.write(np.arange(64, dtype=np.uint8).reshape(1, 8, 8) % 4)
    return path


def write_vat(mask, **columns):
    path = f"{mask}.vat.dbf"
    pyogrio.write_dataframe(pd.DataFrame(columns), path, driver="ESRI Shapefile")


VALUE, NAME, COUNT = ("Value", 0, 5), ("Kind", 2, 2), ("Count", 0, 1)


@pytest.mark.parametrize(
    ("columns", "rows", "names"),
    [
        ([VALUE, COUNT, NAME], [(1, 9, "water"), (3, 9, "wood")], ["", "water", "", "wood"]),
        ([NAME, VALUE], [("wood", 1), ("water", 0)], ["water", "wood"]),
        ([("VALUE", 1, 0), ("Class_Name", 2, 0), ("Note", 2, 0)], [("1.0", "a", "b")], ["", "a"]),
        ([("Low", 0, 3), ("High", 0, 4), NAME], [(0, 1, "a"), (2, 2, "b")], ["a", "a", "b"]),
        ([VALUE, NAME], [(-9999, "none"), (0, "a")], ["a"]),
        ([COUNT, NAME], [(9, "a"), (0, ""), (9, "c")], ["a", "", "c"]),  # rows are the values
        ([VALUE, COUNT], [(1, 9)], None),
        ([COUNT], [(1,)], None),
        ([VALUE, NAME], [(0, ""), (1, " ")], None),
    ],
)
def test_tables_of_gdal(mask, columns, rows, names):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (mask.parent / "mask.tif.aux.xml").write_bytes(pam(columns, rows))
        assert read_category_names(mask) == names
        rasterio.shutil.copy(mask, mask.with_suffix(".vrt"), driver="VRT")
        assert read_category_names(mask.with_suffix(".vrt")) == names


def test_a_table_without_values_counts_from_its_first(mask):
    table = pam([NAME], [("a",), ("b",)], Row0Min="2", BinSize="1")
    (mask.parent / "mask.tif.aux.xml").write_bytes(table)
    assert read_category_names(mask) == ["", "", "a", "b"]


@pytest.mark.parametrize("name", ["Class_Name", "LABEL3", "NLCD_Land_", "Straße"])
def test_tables_of_arcgis(mask, name):
    columns = {"Value": [1, 3], "Count": [16, 16], name: ["water", "Gehölz"], "Red": [0.1, 0.2]}
    write_vat(mask, **columns)
    assert read_category_names(mask) == ["", "water", "", "Gehölz"]
    # Category names have precedence: the map was written anew.
    write_category_names(mask.parent / "mask.tif.aux.xml", ["a", "b"])
    assert read_category_names(mask) == ["a", "b"]


def test_names_inside_files_of_other_formats(mask):
    write_vat(mask, Value=[0, 2], Name=["water", "wood"])
    table = pam([VALUE, NAME], [(0, "water"), (2, "wood")])
    (mask.parent / "mask.tif.aux.xml").write_bytes(table)
    image = mask.with_suffix(".img")
    rasterio.shutil.copy(mask, image, driver="HFA")
    if os.path.exists(f"{image}.aux.xml"):
        os.remove(f"{image}.aux.xml")
    assert read_category_names(image) == ["water", "", "wood"]
    envi = mask.with_suffix(".dat")
    rasterio.shutil.copy(mask, envi, driver="ENVI")
    header = mask.with_suffix(".hdr")
    classes = "file type = ENVI Classification\nclasses = 2\nclass names = {water, wood}\n"
    header.write_text(header.read_text().replace("file type = ENVI Standard\n", classes))
    if os.path.exists(f"{envi}.aux.xml"):
        os.remove(f"{envi}.aux.xml")
    assert read_category_names(envi) == ["water", "wood"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (dict(Value=[1, 1], Name=["a", "b"]), "value 1 is both a and b"),
        (dict(Value=["x", "1"], Name=["a", "b"]), "x is not a value"),
        (dict(Value=[1, 70_000], Name=["a", "b"]), "70000 is not a value from 0 to 65535"),
        (dict(Count=[1, 2], Name=["a", "b"]), "Count, Name is known to hold values"),
        (dict(Value=[1, 2], One=["a", "b"], Two=["c", "d"]), "known to hold names"),
    ],
)
def test_wrong_tables_are_told_of(mask, columns, reason):
    write_vat(mask, **columns)
    with pytest.warns(UserWarning, match=rf"mask.tif.vat.dbf: .* not used: .*{reason}"):
        assert read_category_names(mask) is None


def test_a_damaged_table_is_told_of(mask):
    (mask.parent / "mask.tif.vat.dbf").write_bytes(b"no table")
    with pytest.warns(UserWarning, match="not used: it cannot be read"):
        assert read_category_names(mask) is None
