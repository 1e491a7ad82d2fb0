"""What is asked of a scene: checked when it is made, and the same value everywhere below."""

import dataclasses
import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from hook.errors import ConfigError, DataError, SceneError
from hook.geo.staging import check_output
from hook.regions import RegionRequest
from hook.scenes import MapRequest, SceneRequest
from hook.scenes.request import scene_files


def test_options_become_plain_values():
    request = MapRequest(
        "scene.tif",
        "map.tif",
        window=np.int64(32),
        overlap=np.float32(0.25),
        batch_size=np.int16(3),
        bidx=np.array([3, 1]),
        scores="probs",
        datetime="2024-05-31",
    )
    assert (request.output, request.scores) == (Path("map.tif"), ("probs",))
    assert request.scores_file == Path("map.scores.tif")
    numbers = request.window, request.overlap, request.batch_size, request.bidx
    assert json.loads(json.dumps(numbers)) == [32, 0.25, 3, [3, 1]]
    assert [moment.day for moment in request.times] == [31, 31]
    assert MapRequest("scene.tif", "map.tif").scores_file is None


def test_a_request_does_not_change():
    request = RegionRequest("scene.tif", "regions.gpkg")
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.window = 3
    assert dataclasses.replace(request, window=8).overlap == request.overlap == 0


@pytest.mark.parametrize("kind", [SceneRequest, MapRequest, RegionRequest])
@pytest.mark.parametrize(
    "options",
    [
        dict(window=0),
        dict(overlap=-0.1),
        dict(overlap=1.5),
        dict(overlap=float("nan")),
        dict(overlap=True),
        dict(overlap=32, window=32),
        dict(batch_size=0),
        dict(bidx="12"),
        dict(cluster=3),
        dict(workers=0),
        dict(block_windows=0),
        dict(output=3),
    ],
)
def test_wrong_options_are_named(kind, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}=") as caught:
        kind("scene.tif", **{"output": "out.tif", **options})
    assert caught.value.remedy


def test_an_overlap_in_pixels_is_compared_with_the_window_once_that_is_known():
    request = SceneRequest("scene.tif", "out.tif", overlap=40)
    with pytest.raises(ConfigError, match="overlap=40"):
        dataclasses.replace(request, window=32)
    assert dataclasses.replace(request, window=64).overlap == 40


def test_wrong_options_of_maps_and_regions():
    with pytest.raises(SceneError, match="time of the scene"):
        MapRequest("scene.tif", "map.tif", datetime="yesterday")
    with pytest.raises(ConfigError, match="scores need a file"):
        MapRequest("scene.tif", scores="probs")
    with pytest.raises(TypeError, match="merge"):
        MapRequest("scene.tif", "map.tif", merge=True)
    with pytest.raises(ConfigError, match="merge_threshold=2"):
        RegionRequest("scene.tif", "regions.gpkg", merge_threshold=2)


def test_files_of_a_scene():
    assert scene_files("a.tif") == scene_files(Path("a.tif")) == ("a.tif",)
    assert scene_files(["b.tif", Path("a.tif")]) == ("b.tif", "a.tif")
    for given in (geopandas.GeoDataFrame({"a": [1]}), 3, []):
        with pytest.raises(ConfigError, match="no scene to read"):
            scene_files(given)

    class GeoDataset:
        files = ()

    with pytest.raises(DataError, match="without raster files"):
        scene_files(GeoDataset())


def test_input_is_files_or_arrays():
    assert SceneRequest(Path("a.tif")).input == ("a.tif",)
    assert not SceneRequest(["a.tif", "b.tif"]).has_arrays
    assert SceneRequest(["a.tif", np.zeros((1, 2, 2))]).has_arrays


def test_an_area_of_interest_is_read_once(tmp_path):
    box = shapely.box(0, 0, 2, 1)
    path = tmp_path / "area.gpkg"
    geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32633").to_file(path)
    request = SceneRequest("a.tif", aoi=path)
    path.unlink()
    assert request.aoi.shapes[0].equals(box) and request.aoi.crs.to_epsg() == 32633
    assert dataclasses.replace(request, window=8).aoi is request.aoi
    assert SceneRequest("a.tif", aoi=(0, 0, 2, 1)).aoi.shapes[0].equals(box)


def test_a_layer_is_the_area_of_interest(tmp_path):
    path = tmp_path / "project.gpkg"
    for name in ("east", "west"):
        box = shapely.box(name == "east", 0, 2, 1)
        geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32633").to_file(path, layer=name)
    request = SceneRequest("a.tif", aoi=f"{path}|layername=west")
    assert request.aoi.shapes[0].equals(shapely.box(0, 0, 2, 1))
    with pytest.raises(SceneError, match="is an input"):
        check_output(path, request.inputs)
    with pytest.raises(ConfigError, match="a file other than the area of interest"):
        RegionRequest("a.tif", path, aoi=f"{path}|layername=west", overwrite=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda area: MapRequest("a.tif", "map.tif", vectors=area, aoi=area, overwrite=True),
        lambda area: RegionRequest("a.tif", area, aoi=area, overwrite=True),
    ],
)
def test_the_area_of_interest_is_not_overwritten(make, tmp_path):
    with pytest.raises(ConfigError, match="a file other than the area of interest"):
        make(tmp_path / "area.gpkg")
