"""What maps and token regions share: the size of pixels."""

import geopandas
import numpy as np
import pytest
from pyproj import CRS
from rasterio import Affine

from hook.apis.scenes import metres_per_pixel, scene_files, scene_resolution
from hook.errors import ConfigError


def test_true_ground_size_of_degrees_and_of_mercator():
    degrees = metres_per_pixel(10, 10, Affine(1e-5, 0, 85, 0, -1e-5, 60), CRS("EPSG:4326"))
    # On the ellipsoid 111.41 km a degree of latitude there, and 55.80 of longitude.
    assert degrees == pytest.approx(np.sqrt(1.1141 * 0.5580), rel=1e-3)
    mercator = Affine(10, 0, 0, 0, -10, 8399738)  # at 60 degrees
    assert metres_per_pixel(9, 9, mercator, CRS("EPSG:3857")) == pytest.approx(5, rel=5e-3)


def test_what_has_no_place_has_no_size(tmp_path):
    assert metres_per_pixel(9, 9, Affine(10, 0, 0, 0, -10, 0), None) is None
    (tmp_path / "a.tif").write_bytes(b"II*")
    assert scene_resolution(str(tmp_path / "a.tif")) is None
    assert scene_resolution(str(tmp_path / "none.tif")) is None


def test_a_table_is_no_scene():
    for given in (geopandas.GeoDataFrame({"a": [1]}), 3, []):
        with pytest.raises(ConfigError, match="no scene to read"):
            scene_files(given)
