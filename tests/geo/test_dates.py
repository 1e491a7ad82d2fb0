"""Dates of the layers of series."""

import json
import math

import numpy as np
import pytest
import rasterio

from hook.errors import DataError
from hook.geo.dates import read_dates, to_days


def test_days_since_1970():
    days = to_days(["1970-01-02", "1970-01-02T06:00", 3, None], "here")
    assert days[:3] == [1, 1.25, 3] and math.isnan(days[3])
    for wrong in ("May", "2020-13-01", [1]):
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
