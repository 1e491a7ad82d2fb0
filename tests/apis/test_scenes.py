"""What maps and token regions share: the size of pixels."""

import geopandas
import pytest

from hook.apis.scenes import scene_resolution
from hook.errors import ConfigError
from hook.scenes.request import scene_files


def test_what_has_no_place_has_no_size(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*")
    assert scene_resolution(str(tmp_path / "a.tif")) is None
    assert scene_resolution(str(tmp_path / "none.tif")) is None


def test_a_table_is_no_scene():
    for given in (geopandas.GeoDataFrame({"a": [1]}), 3, []):
        with pytest.raises(ConfigError, match="no scene to read"):
            scene_files(given)
