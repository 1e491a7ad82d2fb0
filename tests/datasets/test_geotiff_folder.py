import copy
import logging
import os
import pickle
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import shapely
from mmengine.registry import DATASETS
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.transform import Affine, from_origin
from torchgeo.datasets import IntersectionDataset, RasterDataset, VectorDataset

import hook.datasets.scene_files as module
from hook.datasets import ChipQuery, GeoTIFFFolder
from hook.datasets.statistics import labelled_statistics
from hook.errors import ConfigError, DataError

META = {"classes": ("a", "b", "c")}


def stitch(dataset):
    """Put the chips of a cover back together: per source image, valid, labels and counts."""
    scenes = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        geo = sample["geo"]
        rows, cols = geo["scene_shape"]
        row, col, height, width = geo["window"]
        if geo["source"] not in scenes:
            scenes[geo["source"]] = {
                "img": np.zeros((rows, cols, sample["img"].shape[2]), sample["img"].dtype),
                "valid": np.zeros((rows, cols), np.uint8),
                "gt_seg_map": np.full((rows, cols), 99, np.int64),
                "count": np.zeros((rows, cols), int),
            }
        scene = scenes[geo["source"]]
        bottom, right = min(row + height, rows), min(col + width, cols)
        inside = (slice(0, bottom - row), slice(0, right - col))
        target = (slice(row, bottom), slice(col, right))
        for key in ("img", "valid", "gt_seg_map"):
            if key in sample:
                scene[key][target] = sample[key][inside]
        scene["count"][target] += 1
        outside = np.ones((height, width), bool)
        outside[inside] = False
        assert not sample["valid"][outside].any()
        if "gt_seg_map" in sample:
            assert (sample["gt_seg_map"][outside] == 255).all()
    return scenes


@pytest.fixture
def messages(monkeypatch):
    heard = []
    monkeypatch.setattr(module, "print_log", lambda text, **kwargs: heard.append((text, kwargs)))
    return heard


# Fidelity -----------------------------------------------------------------------------------------

GRIDS = {
    "utm": ("EPSG:32633", from_origin(500000, 5200000, 10, 10)),
    "degrees": ("EPSG:4326", from_origin(-76.716188, 34.730144, 8.984632e-05, 7.391322e-05)),
    "not square": ("EPSG:26917", from_origin(300000.123, 4300000.456, 23.59, 29.46)),
    "thirds": ("EPSG:3857", from_origin(1e7 / 3, 2e6 / 7, 1 / 3, 1 / 7)),
    "south up": ("EPSG:32633", Affine(10, 0, 500000, 0, 10, 5200000)),
    "rotated": ("EPSG:32633", from_origin(5e5, 52e5, 10, 10) * Affine.rotation(17)),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("dtype", "size", "chip"),
    [("uint8", (61, 47), 16), ("uint16", (33, 64), (20, 24)), ("int16", (7, 90), 32)],
)
def test_values_are_those_of_the_files(
    tmp_path, rng, write_raster, random_image, grid, dtype, size, chip
):
    crs, transform = GRIDS[grid]
    image = random_image(rng, (3, *size), dtype)
    labels = rng.integers(0, 3, size, dtype=np.uint8)
    path = write_raster(tmp_path / "images/s.tif", image, crs, transform)
    write_raster(tmp_path / "masks/s.tif", labels, crs, transform)
    dataset = GeoTIFFFolder("images", "masks", tmp_path, META, chip_size=chip, mode="cover")
    assert isinstance(dataset.torchgeo_dataset, IntersectionDataset)
    (scene,) = stitch(dataset).values()
    assert (scene["count"] == 1).all() and (scene["valid"] == 1).all()
    assert scene["img"].dtype == dtype
    np.testing.assert_array_equal(scene["img"], image.transpose(1, 2, 0))
    np.testing.assert_array_equal(scene["gt_seg_map"], labels)
    with rasterio.open(path) as src:
        for index in range(len(dataset)):
            geo = dataset[index]["geo"]
            row, col, height, width = geo["window"]
            window = rasterio.windows.Window(col, row, width, height)
            np.testing.assert_allclose(geo["transform"], src.window_transform(window)[:6])
            assert rasterio.crs.CRS.from_wkt(geo["crs"]) == src.crs


@pytest.mark.parametrize("grid", ["degrees", "thirds", "not square"])
def test_random_chips_are_windows_of_the_file(tmp_path, rng, write_raster, random_image, grid):
    crs, transform = GRIDS[grid]
    path = write_raster(
        tmp_path / "s.tif", random_image(rng, (2, 101, 83), "float32"), crs, transform
    )
    mask = write_raster(
        tmp_path / "m.tif", rng.integers(0, 3, (101, 83), dtype=np.uint8), crs, transform
    )
    dataset = GeoTIFFFolder(path, mask, metainfo=META, chip_size=(24, 32), length=40)
    with rasterio.open(path) as src, rasterio.open(mask) as truth:
        for index in range(40):
            sample = dataset[index]
            row, col, height, width = sample["geo"]["window"]
            assert 0 <= row <= 101 - 24 and 0 <= col <= 83 - 32
            window = rasterio.windows.Window(col, row, width, height)
            np.testing.assert_array_equal(sample["img"], src.read(window=window).transpose(1, 2, 0))
            np.testing.assert_array_equal(sample["gt_seg_map"], truth.read(1, window=window))


def test_a_mask_may_start_elsewhere_on_the_same_pixels(tmp_path, rng, write_raster, random_image):
    crs, transform = GRIDS["degrees"]
    path = write_raster(tmp_path / "s.tif", random_image(rng, (1, 50, 60)), crs, transform)
    left = rng.integers(0, 3, (70, 30), dtype=np.uint8)
    right = rng.integers(0, 3, (20, 25), dtype=np.uint8)
    masks = [
        write_raster(tmp_path / f"m{i}.tif", array, crs, transform * Affine.translation(*shift))
        for i, (array, shift) in enumerate([(left, (-5, -10)), (right, (25, 12))])
    ]
    dataset = GeoTIFFFolder(path, masks, metainfo=META, chip_size=16, mode="cover")
    expected = np.full((50, 60), 255)
    expected[12:32, 25:50] = right
    expected[:50, :25] = left[10:60, 5:30]
    np.testing.assert_array_equal(stitch(dataset)[path]["gt_seg_map"], expected)
    assert dataset.sampling_windows == [(0, 0, 50, 50)]


# Cover --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", [8, 25, (64, 16), 200])
def test_every_valid_pixel_is_counted_once(tmp_path, rng, write_raster, random_image, chip):
    expected, names = 0, []
    for number, size in enumerate([(60, 90), (5, 7), (64, 1), (33, 200), (25, 25)]):
        image = random_image(rng, (2, *size), "int16")
        image[:, rng.random(size) < 0.2] = -9999
        image[0][rng.random(size) < 0.1] = -9999
        labels = rng.integers(0, 3, size, dtype=np.uint8)
        labels[rng.random(size) < 0.1] = 200
        transform = from_origin(500000 + 3000 * number, 5200000, 10, 10)
        image_path = write_raster(
            tmp_path / f"images/s{number}.tif", image, transform=transform, nodata=-9999
        )
        mask_path = write_raster(
            tmp_path / f"masks/s{number}.tif", labels, transform=transform, nodata=200
        )
        names.append(image_path)
        with rasterio.open(image_path) as src, rasterio.open(mask_path) as truth:
            expected += int(((src.read_masks() > 0).all(axis=0) & (truth.read_masks(1) > 0)).sum())
    dataset = GeoTIFFFolder("images", "masks", tmp_path, META, chip_size=chip, mode="cover")
    counted = sum(int((dataset[index]["gt_seg_map"] != 255).sum()) for index in range(len(dataset)))
    assert counted == expected
    scenes = stitch(dataset)
    assert sorted(scenes) == sorted(names)
    for path, scene in scenes.items():
        assert (scene["count"] == 1).all()
        with rasterio.open(path) as src:
            np.testing.assert_array_equal(scene["valid"], (src.read_masks() > 0).all(axis=0))


def test_the_cover_is_the_same_every_time(folder):
    one, two = (
        GeoTIFFFolder("images", "masks", folder, META, chip_size=32, test_mode=True)
        for _ in range(2)
    )
    assert one.mode == "cover" and len(one) == len(two) == 3 * 2 * 3
    for index in range(len(one)):
        np.testing.assert_array_equal(one[index]["img"], two[index]["img"])
        assert one[index]["sample_idx"] == index


def test_indices_choose_chips(folder):
    every = GeoTIFFFolder("images", None, folder, chip_size=32, mode="cover")
    some = GeoTIFFFolder("images", None, folder, chip_size=32, mode="cover", indices=[4, 7])
    assert [some[i]["geo"]["window"] for i in range(2)] == [
        every[i]["geo"]["window"] for i in (4, 7)
    ]
    assert len(GeoTIFFFolder("images", None, folder, chip_size=32, mode="cover", indices=5)) == 5


# Bands, types, nodata -----------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [("nir", "red"), (3, 1)])
def test_bands_by_name_and_index(folder, bands):
    meta = {**META, "bands": bands}
    dataset = GeoTIFFFolder("images", "masks", folder, meta, chip_size=(60, 90), mode="cover")
    with rasterio.open(folder / "images/s1.tif") as src:
        np.testing.assert_array_equal(dataset[1]["img"], src.read([3, 1]).transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("dtype", "tag", "option", "missing"),
    [
        ("uint8", None, 255, 255),
        ("uint16", 0, None, 0),
        ("int16", -9999, None, -9999),
        ("int16", 5, -9999, -9999),
        ("float32", None, "nan", np.nan),
        ("float32", None, None, np.nan),
        ("float32", -1e30, None, -1e30),
    ],
)
def test_nodata(tmp_path, rng, write_raster, random_image, dtype, tag, option, missing):
    image = random_image(rng, (2, 20, 30), dtype)
    hole = rng.random((20, 30)) < 0.3
    image[:, hole] = missing
    present = ~np.isnan(image) if np.isnan(missing) else image != np.array(missing, dtype)
    present = present.all(axis=0)
    path = write_raster(tmp_path / "s.tif", image, nodata=tag)
    mask = write_raster(tmp_path / "m.tif", np.ones((20, 30), np.uint8))
    dataset = GeoTIFFFolder(
        path, mask, metainfo={**META, "nodata": option}, chip_size=16, mode="cover"
    )
    scene = stitch(dataset)[path]
    np.testing.assert_array_equal(scene["valid"], present)
    np.testing.assert_array_equal(scene["gt_seg_map"], np.where(present, 1, 255))


def test_nodata_of_masks_can_be_kept_as_a_class(tmp_path, rng, write_raster, messages):
    path = write_raster(tmp_path / "s.tif", np.ones((1, 8, 8), np.uint8))
    labels = rng.integers(0, 3, (8, 8), dtype=np.uint8)
    mask = write_raster(tmp_path / "m.tif", labels, nodata=0)

    def read(**options):
        dataset = GeoTIFFFolder(path, mask, metainfo=META, chip_size=8, mode="cover", **options)
        return dataset[0]["gt_seg_map"]

    np.testing.assert_array_equal(read(), np.where(labels == 0, 255, labels))
    assert "label 0 is the nodata value of the masks" in messages[0][0]
    np.testing.assert_array_equal(read(mask_nodata=None), labels)
    np.testing.assert_array_equal(read(mask_nodata=2), np.where(labels == 2, 255, labels))


def test_label_map(tmp_path, rng, write_raster):
    path = write_raster(tmp_path / "s.tif", np.ones((1, 8, 8), np.uint8))
    labels = rng.choice([11, 41, 90, 95], (8, 8)).astype(np.int16)
    mask = write_raster(tmp_path / "m.tif", labels)
    mapping = {11: "c", "41": 0, 90: "ignore", 95: None}
    dataset = GeoTIFFFolder(path, mask, metainfo=META, chip_size=8, mode="cover", label_map=mapping)
    expected = np.select([labels == 11, labels == 41], [2, 0], 255)
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], expected)


def test_many_classes_and_another_ignore_index(tmp_path, rng, write_raster):
    path = write_raster(tmp_path / "s.tif", np.ones((1, 8, 8), np.uint8))
    labels = rng.integers(0, 300, (8, 8), dtype=np.uint16)
    mask = write_raster(tmp_path / "m.tif", labels)
    meta = {"classes": tuple(map(str, range(300))), "ignore_index": 999}
    sample = GeoTIFFFolder(path, mask, metainfo=meta, chip_size=10, mode="cover")[0]
    assert sample["gt_seg_map"].dtype == np.int32
    np.testing.assert_array_equal(sample["gt_seg_map"][:8, :8], labels)
    assert (sample["gt_seg_map"][8:] == 999).all()


# Vector masks -------------------------------------------------------------------------------------


@pytest.fixture
def vectors(tmp_path, rng, write_raster, random_image):
    """A scene of 70 x 50 pixels, and triangles with a class name and a code."""
    transform = from_origin(500000, 5200000, 10, 10)
    path = write_raster(tmp_path / "s.tif", random_image(rng, (1, 70, 50)), transform=transform)
    corners = rng.random((25, 3, 2)) * [500, 700]
    shapes = [shapely.Polygon(each + [500000, 5199300]) for each in corners]
    codes = rng.integers(1, 3, 25)
    table = gpd.GeoDataFrame(
        {"name": [("b", "C")[code - 1] for code in codes], "code": codes},
        geometry=shapes,
        crs="EPSG:32633",
    )
    burned = rasterio.features.rasterize(
        zip(shapes, codes, strict=True), (70, 50), transform=transform, dtype="uint8"
    )
    return path, table, burned


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
@pytest.mark.parametrize("field", ["name", "code"])
def test_vector_masks_are_burned_on_the_grid_of_the_image(tmp_path, vectors, suffix, field):
    path, table, burned = vectors
    mask = tmp_path / f"areas{suffix}"
    (table if suffix != ".geojson" else table.to_crs(4326)).to_file(mask)
    dataset = GeoTIFFFolder(
        path, mask, metainfo=META, chip_size=16, mode="cover", label_field=field
    )
    assert isinstance(dataset.torchgeo_dataset.datasets[1], VectorDataset)
    done = stitch(dataset)[path]["gt_seg_map"]
    # Through degrees and back a corner moves by less than a millimetre.
    assert (done != burned).sum() <= (0 if suffix != ".geojson" else 2)
    assert set(np.unique(done)) == {0, 1, 2}


def test_a_constant_class_and_no_background(tmp_path, vectors):
    path, table, burned = vectors
    table.to_file(tmp_path / "areas.gpkg", layer="areas")
    table.iloc[:1].to_file(tmp_path / "areas.gpkg", layer="other")
    dataset = GeoTIFFFolder(
        path,
        tmp_path / "areas.gpkg",
        metainfo=META,
        chip_size=33,
        mode="cover",
        label="c",
        background="ignore",
        mask_layer="areas",
    )
    np.testing.assert_array_equal(stitch(dataset)[path]["gt_seg_map"], np.where(burned > 0, 2, 255))


def test_layers_of_several_files_are_named_with_the_files(tmp_path, vectors):
    path, table, burned = vectors
    far = table.set_geometry(table.translate(1e6))
    for name, layers in (("a", (far, table[:9])), ("b", (table[9:], far))):
        for layer, rows in zip(("first", "second"), layers, strict=True):
            rows.to_file(tmp_path / f"{name}.gpkg", layer=layer)
    masks = ["a.gpkg|layername=second", "b.gpkg|layerid=0"]
    dataset = GeoTIFFFolder(
        path, masks, str(tmp_path), META, chip_size=16, mode="cover", label_field="code"
    )
    assert len(dataset.torchgeo_dataset.index) == 2
    np.testing.assert_array_equal(stitch(dataset)[path]["gt_seg_map"], burned)
    with pytest.raises(DataError, match="does not exist"):
        GeoTIFFFolder(path, "c.gpkg|layername=first", str(tmp_path), META)
    part = table.dissolve().clip((500000, 5199300, 500250, 5200000))
    for name, area in (("all", table.dissolve()), ("part", part)):
        area.to_file(tmp_path / "parts.gpkg", layer=name)
    chosen = dict(split=dict(file="parts.gpkg|layername=part"), mode="cover")
    dataset = GeoTIFFFolder(path, None, str(tmp_path), chip_size=16, **chosen)
    assert dataset.scenes[0].window[3] < 30


def test_label_map_of_an_attribute(tmp_path, vectors):
    path, table, burned = vectors
    table.to_file(tmp_path / "areas.gpkg")
    options = dict(metainfo=META, chip_size=70, mode="cover", label_field="name")
    mapping = {"b": "a", "C": "ignore"}
    dataset = GeoTIFFFolder(
        path, tmp_path / "areas.gpkg", label_map=mapping, background=1, **options
    )
    np.testing.assert_array_equal(
        stitch(dataset)[path]["gt_seg_map"], np.select([burned == 1, burned == 2], [0, 255], 1)
    )
    with pytest.raises(DataError, match=r"name='b' is not a known class") as caught:
        GeoTIFFFolder(path, tmp_path / "areas.gpkg", label_map={"C": 1}, **options)
    assert "areas.gpkg" in str(caught.value) and "label_map" in str(caught.value)


def test_unknown_class_names_and_attributes(tmp_path, vectors):
    path, table, _ = vectors
    table.to_file(tmp_path / "areas.gpkg")
    with pytest.raises(DataError, match="name='C' is not a known class") as caught:
        GeoTIFFFolder(
            path, tmp_path / "areas.gpkg", metainfo={"classes": ("a", "b")}, label_field="name"
        )
    assert "found: C, b" in str(caught.value) and "expected: a, b" in str(caught.value)
    with pytest.raises(ConfigError, match="no attribute 'kind'") as caught:
        GeoTIFFFolder(path, tmp_path / "areas.gpkg", metainfo=META, label_field="kind")
    assert "name, code" in str(caught.value)
    with pytest.raises(ConfigError, match="unknown class name 'forest'"):
        GeoTIFFFolder(path, tmp_path / "areas.gpkg", metainfo=META, label="forest")
    with pytest.raises(ConfigError, match="label: no class 7"):
        GeoTIFFFolder(path, tmp_path / "areas.gpkg", metainfo=META, label=7)


def test_one_vector_file_per_image_and_an_empty_one(tmp_path, rng, write_raster):
    table = gpd.GeoDataFrame(geometry=[shapely.box(500000, 5199900, 500050, 5200000)], crs=32633)
    (tmp_path / "masks").mkdir()
    for number in range(2):
        transform = from_origin(500000 + 100 * number, 5200000, 10, 10)
        image = np.ones((1, 10, 10), np.uint8)
        write_raster(tmp_path / f"images/s{number}.tif", image, transform=transform)
        table.iloc[: 1 - number].to_file(tmp_path / f"masks/s{number}.geojson")
    dataset = GeoTIFFFolder("images", "masks", tmp_path, META, chip_size=10, mode="cover")
    assert dataset[0]["gt_seg_map"].sum() == 50 and dataset[1]["gt_seg_map"].sum() == 0


# Grids --------------------------------------------------------------------------------------------


@pytest.fixture
def two_zones(tmp_path, rng, write_raster, random_image):
    """One place in two CRS and resolutions, with masks on the images' grids."""
    other = rasterio.warp.transform("EPSG:32633", "EPSG:32632", [500000], [5200000])
    for name, crs, transform, size in (
        ("east", "EPSG:32633", from_origin(500000, 5200000, 10, 10), (40, 50)),
        ("west", "EPSG:32632", from_origin(other[0][0], other[1][0], 20, 20), (30, 20)),
    ):
        image = rng.integers(1, 5000, (2, *size), dtype=np.uint16)
        write_raster(tmp_path / f"images/{name}.tif", image, crs, transform, nodata=0)
        labels = rng.integers(0, 3, size, dtype=np.uint8)
        write_raster(tmp_path / f"masks/{name}.tif", labels, crs, transform)
    return tmp_path


def test_mixed_crs_needs_a_grid(two_zones):
    with pytest.raises(DataError, match="more than one CRS or resolution") as caught:
        GeoTIFFFolder("images", "masks", two_zones, META)
    message = str(caught.value)
    assert "EPSG:32633" in message and "EPSG:32632" in message and "grid=dict(" in message


@pytest.mark.parametrize("nodata", [None, 9])
def test_alpha_bands_count_on_any_grid_and_beside_a_nodata_value(
    tmp_path, rng, write_raster, nodata
):
    image = rng.integers(10, 200, (4, 32, 40), dtype=np.uint8)
    image[3], image[3, :, :8], image[:3, :4] = 255, 0, 9
    write_raster(tmp_path / "rgba.tif", image, photometric="rgb", alpha="yes", nodata=0)
    meta = dict(bands=[1, 2, 3], nodata=nodata)
    options = dict(data_root=tmp_path, metainfo=meta, chip_size=96, mode="cover")
    expected = np.zeros((96, 96), bool)
    expected[:32, 8:40] = True
    if nodata is not None:
        expected[:4] = False
    (sample,) = GeoTIFFFolder("rgba.tif", **options)
    np.testing.assert_array_equal(sample["valid"], expected)
    (sample,) = GeoTIFFFolder("rgba.tif", grid=dict(crs="EPSG:32633", res=5), **options)
    inside = sample["valid"].astype(bool)
    assert inside.sum() == pytest.approx(4 * expected.sum(), rel=0.1)


def test_mixed_files_are_resampled_to_the_grid_of_the_config(two_zones, messages):
    grid = dict(crs="EPSG:32633", res=10)
    dataset = GeoTIFFFolder(
        "images", "masks", two_zones, META, grid=grid, chip_size=32, mode="cover"
    )
    said = "\n".join(text for text, _ in messages)
    assert "1 of 2 images are resampled bilinearly to EPSG:32633, pixel 10: west.tif" in said
    assert "1 masks are resampled to the grid of their images (nearest neighbour)" in said
    assert {kwargs["level"] for _, kwargs in messages} == {logging.WARNING}
    scenes = stitch(dataset)
    east, west = (scenes[str(two_zones / f"images/{name}.tif")] for name in ("east", "west"))
    with rasterio.open(two_zones / "images/east.tif") as src:
        np.testing.assert_array_equal(east["img"], src.read().transpose(1, 2, 0))
    target = dataset.scenes[1].grid
    assert all(value % 10 == 0 for value in (target.transform[2], target.transform[5]))
    for key, folder, method in (
        ("img", "images", Resampling.bilinear),
        ("gt_seg_map", "masks", Resampling.nearest),
    ):
        with rasterio.open(two_zones / folder / "west.tif") as src:
            warped = np.zeros((src.count, target.height, target.width), src.dtypes[0])
            rasterio.warp.reproject(
                src.read(),
                warped,
                src_transform=src.transform,
                src_crs=src.crs,
                src_nodata=src.nodata,
                dst_transform=target.affine,
                dst_crs="EPSG:32633",
                resampling=method,
            )
        known = west["valid"] == 1
        assert known.mean() > 0.8
        expected = warped.transpose(1, 2, 0) if key == "img" else warped[0]
        np.testing.assert_array_equal(west[key][known], expected[known])
    assert (west["gt_seg_map"][west["valid"] == 0] == 255).all()
    assert set(np.unique(west["gt_seg_map"])) == {0, 1, 2, 255}


def test_grid_image_keeps_every_image_as_it_is(two_zones, messages):
    dataset = GeoTIFFFolder(
        "images", "masks", two_zones, META, grid="image", chip_size=16, mode="cover"
    )
    for path, scene in stitch(dataset).items():
        with rasterio.open(path) as src:
            np.testing.assert_array_equal(scene["img"], src.read().transpose(1, 2, 0))
        with rasterio.open(path.replace("images", "masks")) as src:
            np.testing.assert_array_equal(scene["gt_seg_map"], src.read(1))
    assert not messages


def test_a_coarser_mask_needs_a_grid_and_is_read_by_nearest_neighbour(
    tmp_path, rng, write_raster, messages
):
    path = write_raster(tmp_path / "s.tif", np.ones((1, 40, 60), np.uint8))
    coarse = rng.choice([0, 2], (20, 25)).astype(np.uint8)
    mask = write_raster(tmp_path / "m.tif", coarse, transform=from_origin(500000, 5200000, 20, 20))
    with pytest.raises(DataError, match="differ in CRS or resolution") as caught:
        GeoTIFFFolder(path, mask, metainfo=META)
    assert "pixel 20" in str(caught.value) and "grid='image'" in str(caught.value)
    dataset = GeoTIFFFolder(path, mask, metainfo=META, grid="image", chip_size=16, mode="cover")
    expected = np.full((40, 60), 255)
    expected[:, :50] = coarse.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(stitch(dataset)[path]["gt_seg_map"], expected)
    assert "nearest neighbour" in messages[0][0]


def test_a_shifted_mask_is_resampled_and_said(tmp_path, rng, write_raster, messages):
    path = write_raster(tmp_path / "s.tif", np.ones((1, 20, 20), np.uint8))
    labels = rng.integers(0, 3, (20, 20), dtype=np.uint8)
    shifted = from_origin(500003, 5200002, 10, 10)
    mask = write_raster(tmp_path / "m.tif", labels, transform=shifted, nodata=255)
    dataset = GeoTIFFFolder(path, mask, metainfo=META, chip_size=20, mode="cover")
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], labels)
    assert "nearest neighbour): m.tif" in messages[0][0]


@pytest.mark.parametrize("masked", [False, True])
def test_a_resampled_image_without_nodata_value_knows_where_it_ends(
    tmp_path, rng, write_raster, masked
):
    path = write_raster(tmp_path / "s.tif", rng.integers(1, 200, (3, 20, 20), dtype=np.uint8))
    if masked:
        known = np.ones((20, 20), bool)
        known[:, 10:] = False
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dst:
            dst.write_mask(known)
    grid = dict(crs="EPSG:32633", res=8)
    dataset = GeoTIFFFolder(path, None, grid=grid, chip_size=32, mode="cover")
    sample = dataset[0]
    # 200 m are 25 pixels, and the half of them that the mask leaves.
    assert sample["valid"].sum() == pytest.approx(25 * 25 / (2 if masked else 1), abs=13)
    assert sample["img"][sample["valid"] == 1].min() > 0


@pytest.mark.parametrize(
    "grid", ["mask", {}, {"crs": "EPSG:0"}, {"res": -1}, {"res": (1, 2, 3)}, {"size": 3}, 10]
)
def test_wrong_grids(folder, grid):
    with pytest.raises(ConfigError, match="grid"):
        GeoTIFFFolder("images", "masks", folder, META, grid=grid)


def test_an_image_that_the_grid_of_the_first_cannot_hold_is_named(tmp_path, write_raster):
    image, tiny = np.ones((3, 7, 130), np.uint8), from_origin(0, 0, 1e-9, 1e-9)
    first = write_raster(tmp_path / "a.tif", image, "EPSG:32645")
    other = write_raster(tmp_path / "b.tif", image, "EPSG:4326", tiny)
    with pytest.raises(DataError, match=r"b\.tif cannot be read"):
        GeoTIFFFolder([first, other], metainfo=META, grid="image", chip_size=7)


def test_an_image_without_georeference_takes_the_grid_of_its_mask(
    tmp_path, rng, write_raster, messages
):
    image = rng.integers(0, 255, (3, 20, 30), dtype=np.uint8)
    labels = rng.integers(0, 3, (20, 30), dtype=np.uint8)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        path = write_raster(tmp_path / "images/s.tif", image, None, Affine.identity())
        write_raster(tmp_path / "images/t.tif", image[:, :5], None, Affine.identity())
    write_raster(tmp_path / "masks/s.tif", labels, *GRIDS["degrees"])
    write_raster(tmp_path / "masks/t.tif", labels, *GRIDS["degrees"])
    dataset = GeoTIFFFolder(
        "images", "masks", tmp_path, META, split=["s"], chip_size=16, mode="cover"
    )
    scene = stitch(dataset)[path]
    np.testing.assert_array_equal(scene["img"], image.transpose(1, 2, 0))
    np.testing.assert_array_equal(scene["gt_seg_map"], labels)
    np.testing.assert_allclose(dataset[0]["geo"]["transform"], GRIDS["degrees"][1][:6])
    assert "use the grid of the mask of the same name" in messages[0][0]
    with pytest.raises(DataError, match=r"t.tif is not georeferenced"):
        GeoTIFFFolder("images", "masks", tmp_path, META)
    corners = [GroundControlPoint(row, col, col, -row) for row in (0, 5) for col in (0, 5)]
    with rasterio.open(tmp_path / "images/t.tif", "r+") as target:
        target.gcps = corners, rasterio.CRS.from_epsg(4326)
    with pytest.raises(DataError, match=r"(?s)t.tif is not .*4 ground control points.*gdalwarp"):
        GeoTIFFFolder("images", "masks", tmp_path, META)


# Splits -------------------------------------------------------------------------------------------


def sources(dataset):
    return [Path(scene.path).stem for scene in dataset.scenes]


def test_split_by_list(folder):
    (folder / "val.txt").write_text("# held out\ns2\nimages/s0.tif\n\n")
    for split in ("val.txt", folder / "val.txt", ["s0.tif", "s2"]):
        dataset = GeoTIFFFolder("images", "masks", folder, META, split=split)
        assert sources(dataset) == ["s0", "s2"]
    assert {Path(dataset[0]["img_path"]).stem for _ in range(40)} == {"s0", "s2"}


def test_split_lists_that_do_not_fit(folder):
    for names, part in (
        (["s0", "s9"], "missing: s9"),
        ([], "no names"),
        (["s0", "s0.tif"], "named twice"),
    ):
        with pytest.raises(DataError) as caught:
            GeoTIFFFolder("images", "masks", folder, META, split=names)
        assert part in str(caught.value)
    with pytest.raises(DataError, match="nowhere.txt does not exist"):
        GeoTIFFFolder("images", "masks", folder, META, split="nowhere.txt")
    (folder / "images/more").mkdir()
    shutil.copy(folder / "images/s0.tif", folder / "images/more/s0.tif")
    with pytest.raises(DataError, match="exactly one image") as caught:
        GeoTIFFFolder("images", None, folder, split=["s0"])
    assert "ambiguous: s0" in str(caught.value)
    dataset = GeoTIFFFolder("images", None, folder, split=["more/s0"])
    assert "more" in dataset.scenes[0].path


def test_split_by_attribute_of_the_images(folder):
    for number, part in enumerate(["train", "val", "test"]):
        with rasterio.open(folder / f"images/s{number}.tif", "r+") as dst:
            dst.update_tags(part=part)

    def chosen(value):
        split = dict(attribute="part", value=value)
        return sources(GeoTIFFFolder("images", "masks", folder, META, split=split))

    assert chosen("val") == ["s1"] and chosen(["train", "test"]) == ["s0", "s2"]
    with pytest.raises(DataError, match="never has the value") as caught:
        chosen("extra")
    assert "test, train, val" in str(caught.value)


def test_split_by_attribute_of_a_table(folder):
    (folder / "parts.csv").write_text("file,part\ns0,train\ns1.tif,val\ns2,train\n")
    split = dict(file="parts.csv", attribute="part", value="train")
    assert sources(GeoTIFFFolder("images", "masks", folder, META, split=split)) == ["s0", "s2"]
    with pytest.raises(ConfigError, match="no column 'fold'"):
        GeoTIFFFolder("images", "masks", folder, META, split={**split, "attribute": "fold"})


def test_split_by_windows(tmp_path, rng):
    from hook.datasets import RandomGeoSampler

    values = _pictures(tmp_path, rng)
    table = tmp_path / "windows.csv"
    table.write_text("part,name,x,y\nval,b,3,2\nval,a,0,12\ntest,a,1,1\nval,a,22,5\n")
    split = dict(file="windows.csv", attribute="part", value="val", size=8)
    options = dict(split=split, chip_size=8)
    dataset = GeoTIFFFolder("images", "masks", tmp_path, META, mode="cover", **options)
    windows = [("a", 12, 0), ("a", 5, 22), ("b", 2, 3)]
    assert len(dataset) == len(windows)
    for sample, (name, row, col) in zip(dataset, windows, strict=True):
        part = np.s_[row : row + 8, col : col + 8]
        assert sample["geo"]["window"] == (row, col, 8, 8) and sample["valid"].all()
        np.testing.assert_array_equal(sample["img"], values[name][0][part])
        np.testing.assert_array_equal(sample["gt_seg_map"], values[name][1][part])
    random = GeoTIFFFolder("images", "masks", tmp_path, META, mode="random", length=2, **options)
    sampler, drawn = RandomGeoSampler(random, seed=0), set()
    for epoch in range(9):
        sampler.set_epoch(epoch)
        queries = list(sampler)
        assert len(set(queries)) == 2  # no window twice in an epoch
        drawn |= {(*random[query]["geo"]["window"][:2],) for query in queries}
    assert drawn == {window[1:] for window in windows}


@pytest.mark.parametrize(
    ("rows", "change", "message"),
    [
        ("name,part,x,y\na,val,23,0\n", {}, r"not inside the image[\s\S]*20 x 30"),
        ("name,part,x,y\na,val,0,-1\n", {}, "not inside the image"),
        ("name,part,x\na,val,0\n", {}, "position of a window of a is missing"),
        ("name,part,x,y\na,val,0\n", {}, "position of a window of a is missing"),
        ("name,part,x,y\na,val,0,0\na.png,val,0,0\n", {}, "named twice"),
        ("name,part,x,y\na,val,0,0\na,val,0,0\n", {}, "listed twice"),
        ("name,part,x,y\nc,val,0,0\n", {}, "missing: c"),
        ("name,part,x,y\na,val,0,0\n", dict(size=0), "side of the windows"),
        ("name,part,x,y\na,val,0,0\n", dict(file="parts.gpkg"), "side of the windows"),
    ],
)
def test_windows_that_are_not_there(tmp_path, rng, rows, change, message):
    _pictures(tmp_path, rng)
    (tmp_path / "windows.csv").write_text(rows)
    split = dict(file="windows.csv", attribute="part", value="val", size=8) | change
    with pytest.raises((ConfigError, DataError), match=message):
        GeoTIFFFolder("images", "masks", tmp_path, META, split=split)


@pytest.mark.parametrize("kind", ["box", "box in degrees", "polygons"])
def test_areas_side_by_side_share_no_pixel(tmp_path, rng, write_raster, random_image, kind):
    image = rng.integers(1, 999, (1, 60, 90), dtype=np.uint16)
    path = write_raster(tmp_path / "s.tif", image)
    west, east = (500000, 5199400, 500437, 5200000), (500437, 5199400, 500900, 5200000)
    splits = [dict(bounds=box, crs="EPSG:32633") for box in (west, east)]
    if kind == "box in degrees":
        xs, ys = rasterio.warp.transform(
            "EPSG:32633", "EPSG:4326", [499990, 500437, 501000], [5199000, 5199700, 5201000]
        )
        splits = [
            dict(bounds=(left, ys[0], right, ys[2]), crs="EPSG:4326")
            for left, right in zip(xs, xs[1:], strict=False)
        ]
    elif kind == "polygons":
        turn = [(500300, 5199400), (500600, 5200000)]
        shapes = [
            shapely.Polygon([(500000, 5199400), *turn, (500000, 5200000)]),
            shapely.Polygon(
                [*turn[::-1], (500900, 5199400), (500900, 5200000)][:2]
                + [(500900, 5199400), (500900, 5200000)]
            ),
        ]
        table = gpd.GeoDataFrame({"part": ["train", "val"]}, geometry=shapes, crs=32633)
        table.to_file(tmp_path / "parts.gpkg")
        splits = [
            dict(file="parts.gpkg", attribute="part", value=part) for part in ("train", "val")
        ]
    counts = np.zeros((60, 90), int)
    for split in splits:
        dataset = GeoTIFFFolder(path, None, tmp_path, split=split, chip_size=16, mode="cover")
        scene = stitch(dataset)[path]
        assert scene["count"].max() == 1
        counts += scene["valid"]
        inside = scene["valid"] == 1
        np.testing.assert_array_equal(scene["img"][inside, 0], image[0][inside])
        # Nothing of the other split's pixels is in the chips, not even as an invalid value.
        assert not scene["img"][~inside].any()
        dataset.mode = "random"
        for _ in range(5):
            sample = dataset[0]
            assert not sample["img"][sample["valid"] == 0].any() and sample["valid"].any()
    assert (counts == 1).all()


def test_a_box_is_cut_at_pixel_centres(tmp_path, write_raster):
    path = write_raster(tmp_path / "s.tif", np.ones((1, 60, 90), np.uint8))
    split = dict(bounds=(500105, 5199895, 500205, 5200500), crs="EPSG:32633")
    dataset = GeoTIFFFolder(path, None, split=split, chip_size=64, mode="cover")
    assert dataset.scenes[0].window == (0, 10, 11, 10)
    assert dataset[0]["valid"].sum() == 110


def test_areas_that_do_not_fit(folder):
    options = ("images", "masks", folder, META)
    with pytest.raises(DataError, match="no image overlaps the area"):
        GeoTIFFFolder(*options, split=dict(bounds=(0, 0, 10, 10), crs="EPSG:32633"))
    for split in (
        dict(bounds=(5, 5, 1, 1)),
        dict(bounds=(1, 2, 3)),
        dict(bounds=(1, 2, 3, 4), crs="EPSG:nonsense"),
        dict(attribute="part"),
        dict(name="x"),
        {},
    ):
        with pytest.raises(ConfigError, match="split"):
            GeoTIFFFolder(*options, split=split)


# Pairs and errors ---------------------------------------------------------------------------------


def test_pairs_by_name_keep_dates_apart(tmp_path, rng, write_raster):
    truth = {}
    for date in ("2018", "2020"):
        write_raster(tmp_path / f"{date}_image.tif", np.ones((1, 9, 9), np.uint8))
        truth[date] = rng.integers(0, 3, (9, 9), dtype=np.uint8)
        write_raster(tmp_path / f"{date}_mask.tif", truth[date])
    dataset = GeoTIFFFolder(
        "", "", tmp_path, META, mask_glob="*_mask.tif", chip_size=9, mode="cover"
    )
    for index, date in enumerate(sorted(truth)):
        np.testing.assert_array_equal(dataset[index]["gt_seg_map"], truth[date])


def test_files_cannot_be_images_and_masks(folder):
    with pytest.raises(ConfigError, match="images and masks at once"):
        GeoTIFFFolder("images", "images", folder, META)


def test_images_without_masks_are_listed(folder, messages):
    os.remove(folder / "masks/s1.tif")
    with pytest.raises(DataError, match="1 of 3 images have no mask") as caught:
        GeoTIFFFolder("images", "masks", folder, META)
    assert "images/s1.tif" in str(caught.value) and "missing_masks='skip'" in str(caught.value)
    dataset = GeoTIFFFolder("images", "masks", folder, META, missing_masks="skip")
    assert sources(dataset) == ["s0", "s2"] and "are skipped: s1.tif" in messages[0][0]
    dataset = GeoTIFFFolder(
        "images", "masks", folder, META, missing_masks="background", mode="cover", chip_size=99
    )
    assert len(dataset) == 3 and (dataset[1]["gt_seg_map"][:60, :90] == 0).all()


@pytest.mark.parametrize("place", [from_origin(700000, 5200000, 10, 10), None])
def test_images_and_masks_that_do_not_overlap(tmp_path, write_raster, place):
    path = write_raster(tmp_path / "s.tif", np.ones((1, 9, 9), np.uint8))
    crs = "EPSG:32633" if place else "EPSG:4326"
    mask = write_raster(
        tmp_path / "m.tif",
        np.ones((9, 9), np.uint8),
        crs,
        place or from_origin(100, 10, 0.1, 0.1),
    )
    with pytest.raises(DataError, match="do not overlap") as caught:
        GeoTIFFFolder(path, mask, metainfo=META)
    assert "EPSG:32633" in str(caught.value) and "remedy" in str(caught.value)


def test_masks_that_only_touch_their_image_are_no_masks(tmp_path, write_raster):
    ones = np.ones((9, 9), np.uint8)
    for number in range(2):
        transform = from_origin(13.1 + 9 * 1e-4 / 3 * number, 47.0, 1e-4 / 3, 1e-4 / 3)
        write_raster(tmp_path / f"images/i{number}.tif", ones, "EPSG:4326", transform)
        write_raster(tmp_path / f"masks/m{number}.tif", ones, "EPSG:4326", transform)
    dataset = GeoTIFFFolder("images", "masks", tmp_path, META)
    assert [[Path(mask.path).stem for mask in scene.masks] for scene in dataset.scenes] == [
        ["m0"],
        ["m1"],
    ]


def test_labels_outside_the_range_are_named(tmp_path, rng, write_raster):
    path = write_raster(tmp_path / "s.tif", np.ones((1, 9, 9), np.uint8))
    labels = np.array([0, 1, 7, 8, 255], np.uint8).repeat(20)[:81].reshape(9, 9)
    mask = write_raster(tmp_path / "labels.tif", labels)
    dataset = GeoTIFFFolder(path, mask, metainfo=META, mode="cover", chip_size=9)
    with pytest.raises(DataError, match=r"labels.tif: labels outside the range") as caught:
        dataset[0]
    message = str(caught.value)
    assert "0 to 2 (3 classes)" in message and "0, 1, 7, 8, 255" in message
    assert "label_map" in message
    dataset = GeoTIFFFolder(
        path, mask, metainfo=META, mode="cover", chip_size=9, label_map={0: 0, 1: 1, 7: 2}
    )
    with pytest.raises(DataError, match="labels outside the range"):
        dataset[0]


def test_masks_that_hold_no_classes(tmp_path, rng, write_raster):
    path = write_raster(tmp_path / "s.tif", np.ones((1, 9, 9), np.uint8))
    mask = write_raster(tmp_path / "m.tif", rng.random((9, 9)).astype(np.float32))
    dataset = GeoTIFFFolder(path, mask, metainfo=META, mode="cover", chip_size=9)
    with pytest.raises(DataError, match="are not class labels"):
        dataset[0]
    mask = write_raster(tmp_path / "rgb.tif", np.ones((3, 9, 9), np.uint8))
    with pytest.raises(DataError, match="a mask with 3 bands"):
        GeoTIFFFolder(path, mask, metainfo=META)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (dict(images="nowhere"), "nowhere does not exist"),
        (dict(masks="nowhere"), "nowhere does not exist"),
        (dict(image_glob="*.jp2"), "no file in"),
        (dict(images=[]), "images is empty"),
    ],
)
def test_missing_files(folder, options, part):
    options = {"images": "images", "masks": "masks", **options}
    with pytest.raises(DataError, match=part):
        GeoTIFFFolder(data_root=folder, metainfo=META, **options)


@pytest.mark.parametrize(
    "options",
    [
        dict(mode="grid"),
        dict(pair_by="date"),
        dict(missing_masks="never"),
        dict(chip_size=0),
        dict(chip_size=(1, 2, 3)),
        dict(length=0),
        dict(metainfo={}),
        dict(metainfo={**META, "nodata": "none"}),
        dict(label_map={1: "forest"}),
        dict(background=3),
    ],
)
def test_options_that_make_no_sense(folder, options):
    options = {"metainfo": META, **options}
    with pytest.raises(ConfigError) as caught:
        GeoTIFFFolder("images", "masks", folder, **options)
    assert "expected" in str(caught.value) and "remedy" in str(caught.value)


def test_band_errors_name_the_file(folder, write_raster):
    with pytest.raises(DataError, match=r"s0.tif: no band named 'swir'"):
        GeoTIFFFolder("images", "masks", folder, {**META, "bands": ("red", "swir")})
    write_raster(folder / "images/s9.tif", np.ones((4, 9, 9), np.uint8))
    with pytest.raises(DataError, match="differ in their band count") as caught:
        GeoTIFFFolder("images", None, folder)
    assert "s0.tif: 3" in str(caught.value) and "s9.tif: 4" in str(caught.value)


def test_truncated_and_foreign_files_are_named(folder):
    path = folder / "images/s1.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"s1.tif") as caught:
        GeoTIFFFolder("images", "masks", folder, META)
    assert "remedy" in str(caught.value)
    path.write_text("no picture at all")
    with pytest.raises(DataError, match=r"s1.tif cannot be read"):
        GeoTIFFFolder("images", "masks", folder, META)
    path.write_bytes(whole)
    (folder / "areas.geojson").write_text("{")
    with pytest.raises(DataError, match=r"areas.geojson cannot be read"):
        GeoTIFFFolder("images", "areas.geojson", folder, META)


def test_a_cut_off_tiff_whose_header_is_whole(tmp_path, rng, write_raster):
    image = rng.integers(0, 255, (3, 256, 256), dtype=np.uint8)
    path = write_raster(tmp_path / "s.tif", image, tiled=True, blockxsize=64, blockysize=64)
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:-100])
    with pytest.raises(DataError, match="is cut off") as caught:
        GeoTIFFFolder(path)
    assert f"at least {len(whole)} bytes" in str(caught.value)


def test_a_file_that_breaks_while_training(tmp_path, rng, write_raster):
    image = rng.integers(0, 255, (1, 256, 256), dtype=np.uint8)
    path = write_raster(tmp_path / "s.tif", image, compress="deflate", tiled=True, blockxsize=64,
                        blockysize=64)  # fmt: skip
    dataset = GeoTIFFFolder(path, chip_size=64, mode="cover")
    broken = bytearray(Path(path).read_bytes())
    broken[len(broken) // 2 : len(broken) // 2 + 3000] = b"\xff" * 3000
    Path(path).write_bytes(bytes(broken))
    with pytest.raises(DataError, match=r"s.tif cannot be read"):
        [dataset[index] for index in range(len(dataset))]


# As an MMEngine dataset ---------------------------------------------------------------------------


def test_small_scenes_are_padded_in_random_mode(tmp_path, rng, write_raster):
    image = rng.integers(1, 9, (1, 10, 40), dtype=np.uint8)
    dataset = GeoTIFFFolder(write_raster(tmp_path / "s.tif", image), chip_size=16, length=7)
    assert len(dataset) == 7
    for index in range(7):
        sample = dataset[index]
        row, col = sample["geo"]["window"][:2]
        assert row == 0 and 0 <= col <= 24 and sample["valid"].sum() == 160
        np.testing.assert_array_equal(sample["img"][:10, :, 0], image[0, :, col : col + 16])


def test_random_mode_has_as_many_chips_as_cover_the_data(folder):
    dataset = GeoTIFFFolder("images", "masks", folder, META, chip_size=32)
    assert len(dataset) == len(list(dataset)) == 3 * 2 * 3


def test_it_is_an_mmengine_dataset(folder):
    dataset = DATASETS.build(
        dict(
            type="hook.GeoTIFFFolder",
            images="images",
            masks="masks",
            data_root=str(folder),
            metainfo=dict(classes=["a", "b", "c"], nodata="nan", palette=[[0, 0, 0]] * 3),
            chip_size=32,
            test_mode=True,
            lazy_init=True,
            pipeline=[dict(type="hook.PackSegSample")],
        )
    )
    assert dataset.scenes == []
    dataset.full_init()
    assert dataset.metainfo["classes"] == ("a", "b", "c") and dataset.metainfo["nodata"] == "nan"
    assert dataset.metainfo["ignore_index"] == 255
    packed = dataset[5]
    assert packed["inputs"].shape == (3, 32, 32)
    assert packed["data_samples"].geo["window"] == (32, 64, 32, 32)
    assert packed["data_samples"].seg_map_path.endswith("masks/s0.tif")
    assert dataset.get_data_info(-1)["sample_idx"] == len(dataset) - 1


def test_samples_hold_what_pipelines_want(folder):
    sample = GeoTIFFFolder("images", "masks", folder, META, chip_size=32)[0]
    assert sample["img"].flags.c_contiguous and sample["img"].shape == (32, 32, 3)
    assert sample["valid"].dtype == sample["gt_seg_map"].dtype == np.uint8
    assert sample["seg_fields"] == ["gt_seg_map", "valid"]
    assert sample["reduce_zero_label"] is False and sample["dataset_meta"]["ignore_index"] == 255
    unlabelled = GeoTIFFFolder("images", None, folder, chip_size=32)[0]
    assert "gt_seg_map" not in unlabelled and unlabelled["seg_fields"] == ["valid"]
    assert isinstance(
        GeoTIFFFolder("images", None, folder, chip_size=32).torchgeo_dataset, RasterDataset
    )


def test_copies_open_files_of_their_own(folder):
    dataset = GeoTIFFFolder("images", "masks", folder, META, chip_size=32, mode="cover")
    first = dataset[0]
    assert dataset.reader.open_files
    for clone in (
        pickle.loads(pickle.dumps(dataset)),
        copy.deepcopy(dataset),
        dataset.get_subset([0, 3]),
    ):
        assert not clone.reader.open_files
        np.testing.assert_array_equal(clone[0]["img"], first["img"])
    assert len(dataset.get_subset([0, 3])) == 2


def test_queries_read_their_chip_in_either_mode(folder):
    dataset = GeoTIFFFolder("images", "masks", folder, META, chip_size=32, mode="cover")
    sample = dataset[ChipQuery(1, 11, 13)]
    with rasterio.open(folder / "images/s1.tif") as src:
        np.testing.assert_array_equal(sample["img"], src.read()[:, 11:43, 13:45].transpose(1, 2, 0))


# Real imagery -------------------------------------------------------------------------------------

MULTIBAND = [
    ("sentinel2_l1c_20181013_8band_uint8.tif", None, dict(nodata=255), 8),
    ("sentinel2_l1c_20181013_8band_uint8.tif", None, dict(bands=("B08", "B04", "B03")), 3),
    (
        "landsat7_1999322_8band_int16_nodata-9999.tif",
        "landsat7_1999322_training_labels.tif",
        dict(classes=("background", "1", "2", "3", "4", "5")),
        8,
    ),
    ("naip_4709963_se_20180716_rgbn_uint8_nodata0.tif", None, dict(bands=tuple("RGBN")), 4),
    (
        "landsat8_elkton_b1-7_uint16.tif",
        "landsat8_elkton_labels.tif",
        dict(classes=("a", "b", "c"), bands=("B5", "B4", "B3", "B2")),
        4,
    ),
]


@pytest.mark.parametrize(("image", "mask", "meta", "bands"), MULTIBAND)
def test_real_files(shared_data, image, mask, meta, bands):
    from hook.datasets import RandomGeoSampler

    folder = shared_data / "multiband"
    pack = [dict(type="hook.PackSegSample")]
    options = dict(data_root=folder, metainfo={"classes": ("x",), **meta}, chip_size=200)
    dataset = GeoTIFFFolder(image, mask, mode="cover", **options)
    with rasterio.open(folder / image) as src:
        indexes = dataset.scenes[0].indexes
        native = src.read(indexes)
        valid = (src.read_masks(indexes) > 0).all(axis=0)
    if "nodata" in meta:
        valid = (native != meta["nodata"]).all(axis=0)
    counted = np.zeros(2, int)
    for index in range(0, len(dataset)):
        sample = dataset[index]
        row, col = sample["geo"]["window"][:2]
        part = native[:, row : row + 200, col : col + 200].transpose(1, 2, 0)
        np.testing.assert_array_equal(sample["img"][: part.shape[0], : part.shape[1]], part)
        counted[0] += int(sample["valid"].sum())
        counted[1] += int((sample.get("gt_seg_map", sample["valid"]) != 255).sum())
    assert counted[0] == valid.sum()
    if mask:
        with rasterio.open(folder / mask) as src:
            assert counted[1] == ((src.read_masks(1) > 0) & valid).sum()
    random = GeoTIFFFolder(image, mask, pipeline=pack, **options)
    for query in RandomGeoSampler(random, seed=0, length=3):
        packed = random[query]
        assert packed["inputs"].shape == (bands, 200, 200) and packed["inputs"].isfinite().all()
        assert packed["data_samples"].valid_mask.data.shape == (1, 200, 200)


def test_real_vectors_give_the_real_masks(shared_data):
    folder = shared_data / "segmentation/banepa_buildings"
    options = dict(
        data_root=folder,
        metainfo=dict(classes=("background", "building")),
        split="splits/val.txt",
        chip_size=300,
        mode="cover",
    )
    # The masks serve as images here: unlike the images they are georeferenced.
    burned = GeoTIFFFolder("masks", "buildings_osm.geojson", **options)
    stored = GeoTIFFFolder("images", "masks", **options)
    assert len(burned) == len(stored) == 8 * 4
    for index in range(len(burned)):
        np.testing.assert_array_equal(burned[index]["gt_seg_map"], stored[index]["gt_seg_map"])


def test_real_dates_on_shifted_grids(shared_data):
    dataset = GeoTIFFFolder(
        "multiband", None, shared_data, image_glob="naip_*.tif", chip_size=512, mode="cover"
    )
    scenes = stitch(dataset)
    assert len(scenes) == 2
    for path, scene in scenes.items():
        with rasterio.open(path) as src:
            np.testing.assert_array_equal(scene["img"], src.read().transpose(1, 2, 0))


def _image_folder(tmp_path, image, **meta):
    options = dict(data_root=tmp_path, metainfo=META | meta, chip_size=20, mode="cover")
    return GeoTIFFFolder("s.tif", None, **options)[0]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinite_values_are_no_data(tmp_path, rng, write_raster, value):
    image = rng.random((3, 20, 20)).astype(np.float32)
    image[1, 4, 5] = value
    write_raster(tmp_path / "s.tif", image)
    write_raster(tmp_path / "m.tif", np.ones((20, 20), np.uint8))
    data = GeoTIFFFolder("s.tif", "m.tif", tmp_path, META, chip_size=20, mode="cover")
    assert data[0]["valid"].sum() == 399 and data[0]["gt_seg_map"][4, 5] == 255
    statistics, _ = labelled_statistics(data, 3, show=False)
    known = np.delete(image.reshape(3, -1), 4 * 20 + 5, axis=1).astype(float)
    np.testing.assert_allclose(statistics.mean, known.mean(axis=1), rtol=1e-6)


def test_an_alpha_band_that_is_named_is_data(tmp_path, rng, write_raster):
    image = rng.integers(0, 3, (4, 20, 20), dtype=np.uint8)
    write_raster(tmp_path / "s.tif", image, photometric="rgb", alpha="yes")
    sample = _image_folder(tmp_path, image, bands=[4, 1])
    assert sample["valid"].all()
    np.testing.assert_array_equal(sample["img"], image[[3, 0]].transpose(1, 2, 0))
    for bands in ([1, 2, 3], None):
        found = _image_folder(tmp_path, image, bands=bands)["valid"]
        np.testing.assert_array_equal(found, image[3] > 0)


def test_scale_tags_of_images_are_applied_and_of_masks_refused(tmp_path, rng, write_raster):
    image = rng.integers(0, 3000, (3, 20, 20), dtype=np.uint16)
    write_raster(tmp_path / "s.tif", image, names=("red", "green", "nir"))
    mask = write_raster(tmp_path / "m.tif", np.ones((20, 20), np.uint8))
    for path in (tmp_path / "s.tif", mask):
        with rasterio.open(path, "r+") as target:
            target.scales = [1e-4] * target.count
            target.offsets = [-0.1] * target.count
    found = _image_folder(tmp_path, image)["img"]
    np.testing.assert_allclose(found, image.transpose(1, 2, 0) * 1e-4 - 0.1, atol=1e-6)
    same = _image_folder(tmp_path, image, scale=1e-4, offset=-0.1)["img"]
    np.testing.assert_array_equal(same, image.transpose(1, 2, 0))
    with pytest.raises(DataError, match=r"s\.tif: scale and offset tags"):
        _image_folder(tmp_path, image, scale=1e-4)
    with pytest.raises(DataError, match=r"m\.tif: a mask with scale or offset tags"):
        GeoTIFFFolder("s.tif", "m.tif", tmp_path, META, chip_size=20, mode="cover")[0]


def test_images_are_read_by_their_own_band_order(tmp_path, rng, write_raster):
    image = rng.integers(0, 9, (3, 20, 20), dtype=np.uint16)
    write_raster(tmp_path / "i/a.tif", image, names=("red", "green", "nir"))
    where = from_origin(502000, 5200000, 10, 10)
    write_raster(tmp_path / "i/b.tif", image[::-1], names=("nir", "green", "red"), transform=where)
    for bands in ([1, 2, 3], ["red", "green", "nir"], None):
        meta = META | dict(bands=bands)
        data = GeoTIFFFolder("i", None, tmp_path, meta, chip_size=20, mode="cover")
        np.testing.assert_array_equal(data[0]["img"], data[1]["img"])


@pytest.mark.parametrize("grid", [dict(crs="EPSG:32633", res=8), dict(crs="EPSG:32632", res=10)])
def test_resampled_images_keep_the_nodata_of_each_band(tmp_path, rng, write_raster, grid):
    image = rng.integers(50, 200, (3, 20, 20), dtype=np.int16)
    image[:, 8:14, 8:14] = np.array([-1, -2, -3])[:, None, None]
    vrt = (
        '<VRTDataset rasterXSize="20" rasterYSize="20"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>500000, 10, 0, 5200000, 0, -10</GeoTransform>"
        + "".join(
            f'<VRTRasterBand dataType="Int16" band="{band}"><NoDataValue>-{band}</NoDataValue>'
            f'<SimpleSource><SourceFilename relativeToVRT="1">p.tif</SourceFilename>'
            f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    write_raster(tmp_path / "p.tif", image)
    (tmp_path / "s.vrt").write_text(vrt)
    data = GeoTIFFFolder("s.vrt", None, tmp_path, META, chip_size=40, mode="cover", grid=grid)
    sample = data[0]
    step = data.scenes[0].grid.transform[0]
    assert sample["valid"].sum() * step**2 == pytest.approx(100 * (400 - 36), rel=0.12)
    assert sample["img"][sample["valid"] == 1].min() >= 50


def test_warped_files_are_closed_and_opened_again(two_zones, monkeypatch):
    monkeypatch.setattr("hook.datasets.chips.OPEN_FILES", 1)
    grid = dict(crs="EPSG:32633", res=8)
    options = dict(metainfo=META, grid=grid, chip_size=32, mode="cover")
    data = GeoTIFFFolder("images", "masks", two_zones, **options)
    chips = [data[k] for k in (0, -1, 0)]
    np.testing.assert_array_equal(chips[0]["img"], chips[2]["img"])
    assert chips[0]["img_path"] != chips[1]["img_path"] and len(data.reader.open_files) == 1


# Pictures -----------------------------------------------------------------------------------------


def _pictures(root, rng, names=("a", "b"), ending=".png", mode="RGB", size=(20, 30)):
    """Write pictures and masks of the same names; return the values by name."""
    values = {}
    for folder in ("images", "masks"):
        (root / folder).mkdir(exist_ok=True)
    for name in names:
        labels = rng.integers(0, 3, size, dtype=np.uint8)
        shape = (*size, len(mode)) if len(mode) > 1 else size
        image = rng.integers(0, 255, shape, dtype=np.uint16 if mode == "I" else np.uint8)
        Image.fromarray(image).save(root / "images" / f"{name}{ending}")
        mask = Image.fromarray(labels)
        mask.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, *[0] * 759])
        mask.save(root / "masks" / f"{name}_mask.png")
        values[name] = image.reshape(*size, -1), labels
    return values


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("ending", "mode"), [(".png", "RGB"), (".PNG", "RGBA"), (".JPG", "RGB"), (".png", "I")]
)
def test_pictures_without_a_place(tmp_path, rng, ending, mode):
    values = _pictures(tmp_path, rng, ending=ending, mode=mode)
    bands = None if mode != "RGBA" else (1, 2, 3)
    options = dict(chip_size=16, mode="cover")
    dataset = GeoTIFFFolder("images", "masks", tmp_path, META | dict(bands=bands), **options)
    assert dataset.torchgeo_dataset is None and len(dataset) == 8
    scenes = stitch(dataset)
    assert dataset[0]["geo"]["crs"] is None
    for name, (image, labels) in values.items():
        scene = scenes[str(tmp_path / "images" / f"{name}{ending}")]
        valid = image[..., 3] > 0 if mode == "RGBA" else np.ones(labels.shape, bool)
        np.testing.assert_array_equal(scene["valid"], valid)
        np.testing.assert_array_equal(scene["gt_seg_map"], np.where(valid, labels, 255))
        if ending != ".JPG":
            expected = np.where(valid[..., None], image[..., : scene["img"].shape[2]], scene["img"])
            np.testing.assert_array_equal(scene["img"], expected)
    strip = dict(bounds=(10, -20, 30, 0))
    part = GeoTIFFFolder("images", "masks", tmp_path, META, split=strip, **options)
    assert [scene.window for scene in part.scenes] == [(0, 10, 20, 20)] * 2


def _of_one_name(root):
    (root / "images" / "more").mkdir()
    shutil.copy(root / "images/a.png", root / "images/more/a.png")


def _turned(root):
    Image.new("L", (20, 30)).save(root / "masks/a_mask.png")


def _coloured(root):
    Image.new("RGB", (30, 20)).save(root / "masks/a_mask.png")


def _lossy(root):
    (root / "masks/a_mask.png").unlink()
    Image.new("L", (30, 20)).save(root / "masks/a_mask.jpg")


def _of_colours(root):
    Image.open(root / "images/a.png").quantize(16).save(root / "images/a.png")


def _cut_off(root):
    path = root / "images/a.png"
    path.write_bytes(path.read_bytes()[:-60])


def _cut_off_jpeg(root):
    Image.open(root / "images/a.png").save(root / "images/a.jpg")
    (root / "images/a.png").unlink()
    path = root / "images/a.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def _unpaired(root):
    (root / "masks/a_mask.png").rename(root / "masks/other.png")
    (root / "masks/b_mask.png").rename(root / "masks/another.png")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_of_one_name, "two files are named a"),
        (_turned, "a mask of another size than its image"),
        (_coloured, "a mask with 3 bands"),
        (_lossy, "a mask in JPEG"),
        (_of_colours, "a picture with a colour table"),
        (_cut_off, r"a\.png cannot be read"),
        (_cut_off_jpeg, r"a\.jpg cannot be read"),
        (_unpaired, "mask of the same name for each picture"),
    ],
)
def test_pictures_that_do_not_fit(tmp_path, rng, change, says):
    _pictures(tmp_path, rng)
    change(tmp_path)
    masks = sorted((tmp_path / "masks").iterdir())
    with pytest.raises(DataError, match=says):
        GeoTIFFFolder("images", masks, tmp_path, META).full_init()


def test_pictures_beside_geotiffs_are_previews(tmp_path, rng, write_raster, random_image):
    _pictures(tmp_path, rng)
    write_raster(tmp_path / "images/s.tif", random_image(rng, (3, 20, 30)), *GRIDS["utm"])
    dataset = GeoTIFFFolder("images", None, tmp_path, chip_size=16)
    assert [Path(scene.path).name for scene in dataset.scenes] == ["s.tif"]
    with pytest.raises(DataError, match=r"a\.png is not georeferenced"):
        GeoTIFFFolder("images", None, tmp_path, chip_size=16, image_glob="*")
