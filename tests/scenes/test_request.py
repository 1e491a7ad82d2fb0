"""What is asked of a scene: checked when it is made, and the same value everywhere below."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hook.errors import ConfigError, DataError, SceneError
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
        taken="2024-05-31",
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
        MapRequest("scene.tif", "map.tif", taken="yesterday")
    with pytest.raises(ConfigError, match="scores need a file"):
        MapRequest("scene.tif", scores="probs")
    with pytest.raises(TypeError, match="merge"):
        MapRequest("scene.tif", "map.tif", merge=True)
    with pytest.raises(ConfigError, match="merge_threshold=2"):
        RegionRequest("scene.tif", "regions.gpkg", merge_threshold=2)


def test_files_of_a_scene():
    assert scene_files("a.tif") == scene_files(Path("a.tif")) == ("a.tif",)
    assert scene_files(["b.tif", Path("a.tif")]) == ("b.tif", "a.tif")

    class GeoDataset:
        files = ()

    with pytest.raises(DataError, match="without raster files"):
        scene_files(GeoDataset())
