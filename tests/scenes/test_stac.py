import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from hook.errors import SceneError
from hook.scenes import MapRequest, SceneGeometry, map_scene
from hook.scenes.stac import (
    UNKNOWN_TIME,
    ModelCard,
    add_vectors,
    class_objects,
    outline_wgs84,
    parse_time_span,
)

rng = np.random.default_rng(0)
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def check_item(item: dict) -> None:
    """What the text of STAC 1.1 and of its extensions demands of an Item."""
    assert item["type"] == "Feature" and item["stac_version"] == "1.1.0" and item["id"]
    assert isinstance(item["links"], list) and item["assets"]
    assert all(re.fullmatch(r"https://.*/schema\.json", url) for url in item["stac_extensions"])
    assert ("bbox" in item) == (item["geometry"] is not None)
    if item["geometry"]:
        assert item["geometry"]["type"] in ("Polygon", "MultiPolygon")
        shape = shapely.geometry.shape(item["geometry"])
        assert shape.is_valid and len(item["bbox"]) == 4
        assert all(part.exterior.is_ccw for part in shapely.get_parts(shape))  # RFC 7946
        west, south, east, north = shape.bounds
        assert -180 <= west < east <= 180 and -90 <= south < north <= 90
    properties = item["properties"]
    times = [properties["datetime"]]
    if properties["datetime"] is None:
        times = [properties["start_datetime"], properties["end_datetime"]]
    for time in times:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", time)  # RFC 3339
    assert len(properties["proj:shape"]) == 2
    assert properties["proj:code"] is None or ":" in properties["proj:code"]
    assert properties.get("proj:transform") is None or len(properties["proj:transform"]) == 6
    for asset in item["assets"].values():
        # RFC 6920 for what is named by its checksum
        assert re.fullmatch(r"\./.+|ni:///sha-256;[\w-]{43}", asset["href"])
        assert asset["type"] and asset["roles"]
    for entry in item["assets"]["map"]["classification:classes"]:
        assert isinstance(entry["value"], int)
        assert re.fullmatch(r"[0-9A-Za-z-_]+", entry["name"])
        assert re.fullmatch(r"[0-9A-F]{6}", entry.get("color_hint", "000000"))


def make(predict, path, folder, **options):
    folder.mkdir(exist_ok=True)
    of_model = ("class_names", "palette", "cell", "fingerprint", "model")
    known = {name: options.pop(name) for name in of_model if name in options}
    request = MapRequest(path, folder / "land.tif", progress=False, **options)
    map_scene(predict, request, num_classes=2, **known)
    text = (folder / "land.json").read_text("utf-8")
    item = json.loads(text)
    check_item(item)
    return item, text


def test_item_of_a_map(write_scene, softmax_of_bands, tmp_path):
    values = rng.integers(1, 9, (2, 60, 40)).astype(np.uint8)
    values[:, :3] = 0
    scene = write_scene(values, nodata=0)
    out = tmp_path / "out"
    item, text = make(
        softmax_of_bands,
        scene,
        out,
        window=32,
        scores=("margin",),
        class_names=["Wald & Wiese", "Wasser (süß)"],
        palette=[(0, 160, 10), (1, 2, 255)],
        model=ModelCard({"mlm:name": "hook-x"}),
    )
    assert item["id"] == "land"
    with rasterio.open(out / "land.tif") as source:
        classes = source.read(1)
        assert item["properties"]["proj:transform"] == list(source.transform)[:6]
        bounds = transform_bounds(source.crs, "EPSG:4326", *source.bounds)
    assert item["properties"]["proj:code"] == "EPSG:32645"
    assert item["properties"]["proj:wkt2"].startswith("PROJCRS[")
    assert item["properties"]["proj:shape"] == [60, 40]
    assert item["properties"]["mlm:name"] == "hook-x"
    np.testing.assert_allclose(item["bbox"], bounds, atol=2e-7)
    assert item["assets"].keys() == {"map", "scores", "style", "categories"}
    for asset in item["assets"].values():
        assert (out / asset["href"]).is_file()
    assert item["assets"]["map"]["file:size"] == (out / "land.tif").stat().st_size
    assert item["assets"]["map"]["type"] == item["assets"]["scores"]["type"] == COG
    assert (item["assets"]["map"]["data_type"], item["assets"]["map"]["nodata"]) == ("uint8", 255)
    found = item["assets"]["map"]["classification:classes"]
    assert [entry["title"] for entry in found] == ["Wald & Wiese", "Wasser (süß)", "No data"]
    assert [entry["name"] for entry in found] == ["Wald-Wiese", "Wasser-s", "nodata"]
    assert [entry.get("color_hint") for entry in found] == ["00A00A", "0102FF", None]
    assert [entry["value"] for entry in found] == [0, 1, 255]
    assert [entry["count"] for entry in found] == [(classes == k).sum() for k in (0, 1, 255)]
    band = {"name": "margin", "data_type": "uint8", "nodata": 255}
    assert item["assets"]["scores"]["bands"] == [
        {**band, "raster:scale": 0.004, "raster:offset": 0}
    ]
    assert "scene.tif" in item["properties"]["processing:lineage"]
    assert str(tmp_path) not in text


def test_item_depends_on_neither_place_nor_run(write_scene, softmax_of_bands, tmp_path):
    scene = write_scene(rng.random((2, 40, 40), np.float32))
    texts = {
        make(softmax_of_bands, scene, tmp_path / name, window=32, batch_size=2)[1]
        for name in ("a", "b")
    }
    assert len(texts) == 1


def test_without_a_place_there_is_no_box(write_scene, softmax_of_bands, tmp_path):
    scene = write_scene(rng.random((2, 40, 40), np.float32), crs=None, transform=None)
    with pytest.warns(UserWarning, match="not georeferenced"):
        item, _ = make(softmax_of_bands, scene, tmp_path / "out", window=32)
    assert item["geometry"] is None and item["properties"]["proj:code"] is None
    assert not item["properties"].keys() & {"proj:transform", "proj:wkt2"}


@pytest.mark.parametrize(
    "tags, times, expected",
    [
        ({}, None, (None, "1900-01-01T00:00:00Z", "2099-12-31T23:59:59Z")),
        ({"TIFFTAG_DATETIME": "2018:07:16 10:20:30"}, None, ("2018-07-16T10:20:30Z",)),
        (
            {"TIFFTAG_DATETIME": "0000:00:00 00:00:00"},
            None,
            (None, "1900-01-01T00:00:00Z", "2099-12-31T23:59:59Z"),
        ),
        (
            {"TIFFTAG_DATETIME": "2018:07:16 10:20:30"},
            "2017-05-01",
            (None, "2017-05-01T00:00:00Z", "2017-05-01T23:59:59Z"),
        ),
    ],
)
def test_time_of_the_scene(write_scene, softmax_of_bands, tmp_path, tags, times, expected):
    scene = write_scene(rng.random((2, 20, 20), np.float32))
    with rasterio.open(scene, "r+") as target:
        target.update_tags(**tags)
    item, _ = make(softmax_of_bands, scene, tmp_path / "out", window=16, datetime=times)
    keys = ("datetime", "start_datetime", "end_datetime")
    assert tuple(item["properties"][key] for key in keys if key in item["properties"]) == expected
    assert ("not known" in item["properties"]["description"]) == (expected[-1][:4] == "2099")


def test_several_files_span_their_times(write_scene, softmax_of_bands, tmp_path):
    scenes = []
    for name, time in (("b.tif", "2020:01:02 00:00:00"), ("a.tif", "2019:01:02 00:00:00")):
        scenes.append(write_scene(rng.random((2, 20, 20), np.float32), name))
        with rasterio.open(scenes[-1], "r+") as target:
            target.update_tags(TIFFTAG_DATETIME=time)
    item, _ = make(softmax_of_bands, scenes, tmp_path / "out", window=16)
    assert item["properties"]["start_datetime"] == "2019-01-02T00:00:00Z"
    assert item["properties"]["end_datetime"] == "2020-01-02T00:00:00Z"
    assert "b.tif, a.tif" in item["properties"]["processing:lineage"]


def test_times_are_read(write_scene):
    moment = datetime(2024, 5, 31, 8, 20, 30, tzinfo=UTC)
    assert parse_time_span("2024-05-31T10:20:30+02:00") == (moment, moment)
    assert parse_time_span("2024-05-31T08:20:30") == (moment, moment)
    assert parse_time_span("2024-05-30/2024-05-31T08:20:30Z") == (
        datetime(2024, 5, 30, tzinfo=UTC),
        moment,
    )
    for text in (
        "",
        "May",
        "2024-13-01",
        "2024-05-31/2024-05-30",
        "2024-05-01/2024-05-02/2024-05-03",
    ):
        with pytest.raises(SceneError, match="time of the scene"):
            parse_time_span(text)
    assert all(np.datetime64(moment.replace(tzinfo=None), "ns").item() for moment in UNKNOWN_TIME)


@pytest.mark.parametrize(
    "epsg, transform, kind, inside, outside",
    [
        # around 180 degrees, in degrees and in metres
        (4326, (0.1, 0, 175, 0, -0.1, 50), "MultiPolygon", [(179.9, 45), (-179.9, 45)], (0, 45)),
        (
            32660,
            (10000, 0, 300000, 0, -1000, 3000000),
            "MultiPolygon",
            [(179.9, 26.5), (-175.5, 26.2)],
            (170, 26.5),
        ),
        # a pole inside
        (
            3031,
            (40000, 0, -2000000, 0, -40000, 2000000),
            "Polygon",
            [(0, -89.9), (179.9, -80), (90, -75)],
            (45, -60),
        ),
        # longitudes from 0 to 360
        (4326, (0.1, 0, 200, 0, -0.1, 50), "Polygon", [(-155, 45)], (155, 45)),
        (4326, (3.6, 0, 0, 0, -1.8, 90), "Polygon", [(-179, -89), (179, 89), (0, 0)], None),
        # turned by 45 degrees
        (4326, (0.1, -0.1, 10, -0.1, -0.1, 50), "Polygon", [(10, 40), (2, 40)], (1, 49)),
    ],
)
def test_outlines(epsg, transform, kind, inside, outside):
    geometry = SceneGeometry(100, 100, rasterio.CRS.from_epsg(epsg), Affine(*transform))
    outline = outline_wgs84(geometry)
    assert outline.geom_type == kind and outline.is_valid
    assert all(outline.contains(shapely.Point(place)) for place in inside)
    assert outside is None or not outline.intersects(shapely.Point(outside))


def test_box_over_the_antimeridian_has_the_larger_number_in_the_west(
    write_scene, softmax_of_bands, tmp_path
):
    scene = write_scene(
        rng.random((2, 20, 20), np.float32),
        crs="EPSG:4326",
        transform=Affine(0.5, 0, 175, 0, -0.5, 5),
    )
    item, _ = make(softmax_of_bands, scene, tmp_path / "out", window=16)
    np.testing.assert_allclose(item["bbox"], [175, -5, -175, 5])


def test_curved_sides_have_points_between_the_corners():
    transform = Affine(10000, 0, 100000, 0, -10000, 9000000)
    geometry = SceneGeometry(60, 80, rasterio.CRS.from_epsg(32633), transform)
    outline = outline_wgs84(geometry)
    bounds = transform_bounds("EPSG:32633", "EPSG:4326", 100000, 8400000, 900000, 9000000, 101)
    np.testing.assert_allclose(outline.bounds, bounds, atol=0.01)
    corners_only = shapely.Polygon(
        shapely.get_coordinates(outline)[:: (shapely.get_num_coordinates(outline) - 1) // 4]
    )
    assert corners_only.bounds[3] < bounds[3] - 0.1


def test_class_names_stay_apart():
    names = ["a b", "a-b", "森", "nodata"]
    classes = class_objects(names, [(0, 0, 0)] * 4, nodata=255)
    assert [entry["name"] for entry in classes] == [
        "a-b",
        "class-1",
        "class-2",
        "nodata",
        "class-255",
    ]
    assert [entry["title"] for entry in classes[:4]] == names


def test_vectors_join_the_item(write_scene, softmax_of_bands, tmp_path):
    scene = write_scene(rng.random((2, 20, 20), np.float32))
    make(softmax_of_bands, scene, tmp_path / "out", window=16)
    polygons = tmp_path / "out" / "land.parquet"
    polygons.write_bytes(b"12345")
    add_vectors(tmp_path / "out" / "land.json", polygons)
    item = json.loads((tmp_path / "out" / "land.json").read_text("utf-8"))
    check_item(item)
    assert item["assets"]["vectors"]["href"] == "./land.parquet"
    assert item["assets"]["vectors"]["file:size"] == 5
    for text in ("", "{}", "[]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(SceneError, match=r"bad\.json: cannot be read"):
            add_vectors(tmp_path / "bad.json", polygons)


def test_a_plane_of_its_own_lies_nowhere_on_the_earth(write_scene, softmax_of_bands, tmp_path):
    plane = rasterio.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    grid = Affine(0.1, 0, 0, 0, -0.1, 0)
    assert outline_wgs84(SceneGeometry(20, 20, plane, grid)) is None
    scene = write_scene(rng.random((2, 20, 20), np.float32), crs=plane, transform=grid)
    item, _ = make(softmax_of_bands, scene, tmp_path / "out", window=16)
    assert item["geometry"] is None
