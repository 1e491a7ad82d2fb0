"""Dates of the layers of series."""

import datetime
import json
import math

import numpy as np
import pytest
import rasterio

from hook.errors import DataError
from hook.geo.dates import date_of, read_dates, to_days, to_iso, without_date


def test_days_since_1970():
    days = to_days(["1970-01-02", "1970-01-02T06:00", 3, None], "here")
    assert days[:3] == [1, 1.25, 3] and math.isnan(days[3])
    moments = ("1970-01-02T09:00+09:00", datetime.date(1970, 1, 2), np.datetime64("1970-01-02"))
    assert to_days([*moments, " 1970-01-02T00:00:15Z", math.nan], "here")[:4] == [1] * 4
    for wrong in ("May", "2020-13-01", [1], 20180429, math.inf, True, "1600-01-01"):
        with pytest.raises(DataError, match="here: not a date"):
            to_days([wrong], "here")


def test_dates_beside_the_file_come_before_those_in_it(tmp_path, write_raster):
    names = ["2020-01-01 a", "2020-01-01 b", "2020-02-01 a", "2020-02-01 b"]
    path = write_raster(tmp_path / "s.tif", np.ones((4, 2, 2), np.uint8), names=names)
    with rasterio.open(path) as source:
        assert read_dates(source, 2) == ["2020-01-01", "2020-02-01"]
        with pytest.raises(DataError, match="do not keep together"):
            read_dates(source, 4)
        (tmp_path / "layers.json").write_text(json.dumps({"dates": [1, 2]}))
        assert read_dates(source, 2) == [1, 2]
        (tmp_path / "s.json").write_text(json.dumps({"dates": [3, 4]}))
        assert read_dates(source, 2) == [3, 4]
        with pytest.raises(DataError, match="2 dates of 1 bands"):
            read_dates(source, 1)
        (tmp_path / "s.json").write_text(json.dumps({"dates": "2018-04-29"}))
        assert read_dates(source, 2) == [1, 2]


def test_two_layers_of_which_one_is_marked_as_alpha_have_their_date(write_scene):
    path = write_scene(np.ones((2, 4, 4), np.uint8), "s2_20180429.tif")
    path.with_suffix(".json").write_text('{"dates": ["2018-07-08"]}')
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [file.colorinterp[0], rasterio.enums.ColorInterp.alpha]
    with rasterio.open(path) as source:
        assert date_of(source) == "2018-07-08"


def test_alpha_is_no_layer_of_a_date(write_scene):
    path = write_scene(np.ones((5, 4, 4), np.uint16), "s.tif")
    with rasterio.open(path, "r+") as file:
        names = ("2020-01-01T10:30:15Z_a", "2020-01-01T10:30:15Z_b", "2020-02-01 a", "2020-02-01 b")
        file.descriptions = [*names, "alpha"]
        file.colorinterp = [*file.colorinterp[:4], rasterio.enums.ColorInterp.alpha]
    with rasterio.open(path) as source:
        assert read_dates(source, 2) == ["2020-01-01T10:30:15Z", "2020-02-01"]
        assert without_date(source.descriptions[0]) == "a"


@pytest.mark.parametrize(
    "name, tags, expected",
    [
        ("s2_20180429.tif", {}, "2018-04-29"),
        ("T31TCJ_2018-04-29_v2.tif", {}, "2018-04-29"),
        ("S2A_20180429T105031_N0207_20180429T131246.tif", {}, "2018-04-29"),
        ("S2A_20180429T105031_N0207_20180502T131246.tif", {}, None),  # which of the two?
        ("tile_20181329_120180429.tif", {}, None),  # no dates
        ("s2.tif", {"TIFFTAG_DATETIME": "2018:05:13 10:30:00"}, "2018-05-13T10:30:00"),
        ("s2_20180513.tif", {"TIFFTAG_DATETIME": "2018:05:13 10:30:00"}, "2018-05-13T10:30:00"),
        ("s2_20180429.tif", {"TIFFTAG_DATETIME": "2024:01:02 10:30:00"}, None),  # of processing?
        ("s2.tif", {"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, None),
    ],
)
def test_date_of_one_image(write_scene, name, tags, expected):
    path = write_scene(np.zeros((2, 4, 4), np.uint8), name)
    with rasterio.open(path, "r+") as file:
        file.update_tags(**tags)
    with rasterio.open(path) as file:
        assert date_of(file) == expected


def test_a_list_of_dates_beside_comes_before_the_name(write_scene):
    path = write_scene(np.zeros((2, 4, 4), np.uint8), "s2_20180429.tif")
    path.with_suffix(".json").write_text('{"dates": ["2018-07-08"]}')
    path.with_name("layers.json").write_text('{"dates": ["2001-01-01"]}')  # of all files here
    with rasterio.open(path) as file:
        assert date_of(file) == "2018-07-08"
    path.with_suffix(".json").unlink()
    with rasterio.open(path) as file:
        assert date_of(file) == "2018-04-29"


@pytest.mark.parametrize("date", ["2018-04-29", "1969-12-31", "2018-04-29T10:30"])
def test_days_and_iso_dates(date):
    assert to_iso(to_days([date], "here")[0]) == date
