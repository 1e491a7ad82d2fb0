import json

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.windows import Window as RasterioWindow

from hook.errors import DataError, SceneError
from hook.geo.raster import quiet
from hook.scenes import SceneReader, Window
from hook.scenes.reader import AreaOfInterest, fingerprint_of_raster

rng = np.random.default_rng(0)
WGS84 = rasterio.CRS.from_epsg(4326)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_values_and_masks_equal_rasterio_s(write_scene, dtype):
    values = rng.integers(0, 9, (4, 40, 50)).astype(dtype)
    path = write_scene(values, nodata=3, photometric="minisblack", alpha="no")
    with SceneReader(path, [4, 1]) as reader, rasterio.open(path) as source:
        assert (reader.height, reader.width, reader.dtype) == (40, 50, np.dtype(dtype))
        data = reader.read(Window(7, 9, 16, 16), 16)
        area = RasterioWindow(9, 7, 16, 16)
        masks = source.read_masks([4, 1], window=area) > 0
        np.testing.assert_array_equal(data.image, source.read([4, 1], window=area))
        np.testing.assert_array_equal(data.valid, masks.all(axis=0))
        np.testing.assert_array_equal(data.covered, masks.any(axis=0))
        assert data.image.dtype == dtype


def test_small_scene_is_extended_by_reflection(write_scene):
    values = np.arange(6, dtype=np.int16).reshape(1, 2, 3)
    with SceneReader(write_scene(values, nodata=0)) as reader:
        image, valid, covered = reader.read(Window(0, 0, 2, 3), 8)
    np.testing.assert_array_equal(
        image[0, :2], [[0, 1, 2, 2, 1, 0, 0, 1], [3, 4, 5, 5, 4, 3, 3, 4]]
    )
    np.testing.assert_array_equal(image[0, :4, 0], [0, 3, 3, 0])
    np.testing.assert_array_equal(valid, image[0] != 0)
    np.testing.assert_array_equal(covered, values[0] != 0)


def test_nan_is_invalid_with_or_without_a_tag(write_scene):
    values = np.ones((2, 4, 4), np.float32)
    values[0, 0] = np.nan
    values[:, 1] = np.nan
    for name, options in {"bare.tif": {}, "tagged.tif": {"nodata": np.nan}}.items():
        with SceneReader(write_scene(values, name, **options)) as reader:
            data = reader.read(Window(0, 0, 4, 4), 4)
        assert data.valid[:, 0].tolist() == [False, False, True, True]
        assert data.covered[:, 0].tolist() == [True, False, True, True]


def test_nodata_override_replaces_the_tag(write_scene):
    values = np.array([[[0, 255, 7]]], np.uint8)
    path = write_scene(values, nodata=0)
    for nodata, expected in (
        (None, [False, True, True]),
        (255, [True, False, True]),
        ("nan", [True, True, True]),
    ):
        with SceneReader(path, nodata=nodata) as reader:
            assert reader.read(Window(0, 0, 1, 3), 3).covered[0].tolist() == expected
    with pytest.warns(UserWarning, match="does not fit uint8"):
        SceneReader(path, nodata=-9999).close()
    with pytest.raises(SceneError, match="nodata"):
        SceneReader(path, nodata="none")


def test_alpha_band_masks_and_is_not_read(write_scene):
    values = rng.integers(1, 9, (4, 8, 8)).astype(np.uint8)
    values[3] = 255
    values[3, :2] = 0
    with SceneReader(write_scene(values, photometric="rgb", alpha="yes")) as reader:
        assert reader.indexes == [1, 2, 3]
        covered = reader.read(Window(0, 0, 8, 8), 8).covered
    assert not covered[:2].any() and covered[2:].all()


def test_missing_file_and_band_are_named(write_scene, tmp_path):
    with pytest.raises(SceneError, match=r"absent\.tif"):
        SceneReader(tmp_path / "absent.tif")
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(SceneError, match=r"text\.tif"):
        SceneReader(tmp_path / "text.tif")
    path = write_scene(np.ones((3, 4, 4), np.uint8))
    for indexes in ([4], [0], []):
        with pytest.raises(SceneError, match=r"scene\.tif.*\n.*1 to 3"):
            SceneReader(path, indexes)


@pytest.mark.parametrize("compress", ["none", "deflate", "jpeg"])
def test_truncated_file_is_an_error(write_scene, compress):
    values = rng.integers(0, 255, (3, 256, 256)).astype(np.uint8)
    options = {"photometric": "ycbcr", "interleave": "pixel"} if compress == "jpeg" else {}
    path = write_scene(
        values, tiled=True, blockxsize=64, blockysize=64, compress=compress, **options
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneError, match=r"scene\.tif") as caught:
        with SceneReader(path) as reader:
            for row in range(0, 256, 64):
                reader.read(Window(row, 0, 64, 256), 256)
    assert "complete" in caught.value.remedy or "incomplete" in caught.value.remedy


def test_file_without_georeference_warns(write_scene):
    path = write_scene(np.ones((1, 4, 4), np.uint8), crs=None, transform=None)
    with pytest.warns(UserWarning, match=r"scene\.tif: not georeferenced"):
        SceneReader(path).close()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_other_georeferences_are_named_when_they_are_lost(write_scene):
    values = np.ones((1, 8, 8), np.uint8)
    with pytest.warns(UserWarning, match="not georeferenced in a CRS; its outputs have its trans"):
        SceneReader(write_scene(values, crs=None)).close()
    path = write_scene(values, crs=None, transform=None)
    with rasterio.open(path, "r+") as target:
        corners = [(row, col) for row in (0, 8) for col in (0, 8)]
        points = [GroundControlPoint(row, col, 36 + col, 3 - row) for row, col in corners]
        target.gcps = points, rasterio.CRS.from_epsg(4326)
    with pytest.warns(UserWarning, match="but by 4 ground control points.*gdalwarp"):
        SceneReader(path).close()


def test_files_on_both_sides_of_180_degrees_are_one_scene(write_scene):
    west, east = (
        write_scene(np.full((1, 8, 20), k, np.uint8), f"{k}.tif", crs="EPSG:4326", transform=grid)
        for k, grid in enumerate(
            (Affine(0.25, 0, 175, 0, -0.25, 2), Affine(0.25, 0, -180, 0, -0.25, 2)), 1
        )
    )
    for files, left in ((west, east), 175), ((east, west), -185):
        with SceneReader(files) as reader:
            assert (reader.height, reader.width, reader.transform.c) == (8, 40, left)
            image = reader.read(Window(0, 0, 8, 40), 40).image
            assert (image[0, :8, :20] == 1).all() and (image[0, :8, 20:] == 2).all()


@pytest.mark.parametrize(
    "west, box",
    [
        (183, (-176, 10, -174, 11)),
        (-177, (184, 10, 186, 11)),
        (179, (-180, 10, -178, 11)),
        (-360, (-359, 10, -357, 11)),
    ],
)
def test_areas_of_interest_in_any_turn_of_longitudes(write_scene, west, box):
    transform = rasterio.Affine(0.25, 0, west, 0, -0.5, 12)
    path = write_scene(np.ones((1, 8, 16), np.uint8), crs="EPSG:4326", transform=transform)
    for area in (AreaOfInterest((shapely.box(*box),)), AreaOfInterest((shapely.box(*box),), WGS84)):
        with SceneReader(path, aoi=area) as reader:
            assert (reader.height, reader.width) == (2, 8)
            assert (reader.transform.c - box[0]) % 360 == 0 and reader.transform.f == 11


@pytest.mark.parametrize(
    "name, bands, dtype",
    [
        ("sentinel2_l1c_20181013_8band_uint8.tif", 8, "uint8"),
        ("landsat7_1999322_8band_int16_nodata-9999.tif", 8, "int16"),
        ("landsat8_b7_memphis_cog_uint16_nodata0.tif", 1, "uint16"),
        ("naip_4709963_se_20180716_rgbn_uint8_nodata0.tif", 4, "uint8"),
    ],
)
def test_real_files(shared_data, name, bands, dtype):
    path = shared_data / "multiband" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    with SceneReader(path) as reader, rasterio.open(path) as source:
        window = Window(0, 0, 200, 210)
        data = reader.read(window, 210)
        area = RasterioWindow(0, 0, 210, 200)
        assert data.image.shape == (bands, 210, 210) and data.image.dtype == dtype
        np.testing.assert_array_equal(data.image[:, :200], source.read(window=area))
        np.testing.assert_array_equal(
            data.covered, (source.read_masks(window=area) > 0).any(axis=0)
        )


@pytest.mark.parametrize(
    "count, options, nodata",
    [
        (1, {}, None),
        (1, {"nodata": 0}, None),
        (1, {"nodata": 0}, 9),  # what fills the gap is the file's own value, not the caller's
        (4, {"photometric": "rgb", "alpha": "yes"}, None),
    ],
)
def test_a_file_on_another_grid_holds_no_data_where_it_does_not_reach(
    write_scene, count, options, nodata
):
    values = np.full((count, 8, 8), 5, np.uint8)
    first = write_scene(values, "first.tif", **options)
    coarse = rasterio.Affine(1, 0, 300010, 0, -1, 3000000)  # of 1 m, 6 m to the right
    second = write_scene(values + 1, "second.tif", transform=coarse, **options)
    with SceneReader([first, second], [1], nodata) as reader:
        data = reader.read(Window(0, 0, 16, 36), 36)
    expected = np.zeros((16, 36), int)
    expected[:8, :8], expected[:, 20:] = 5, 6
    np.testing.assert_array_equal(data.covered, expected > 0)
    np.testing.assert_array_equal(data.image[0, :16] * data.covered, expected)


SETTINGS = "<PAMDataset>{}<PAMRasterBand band='1'>{}</PAMRasterBand></PAMDataset>"


@pytest.mark.parametrize(
    "name, content, noticed",
    [
        ("scene.tif.msk", b"mask", True),
        ("scene.tfw", b"2\n0\n0\n-2\n9\n9\n", True),
        ("scene.wld", b"2\n0\n0\n-2\n9\n9\n", True),
        ("scene.tif.aux.xml", SETTINGS.format("<SRS>EPSG:32645</SRS>", "").encode(), True),
        ("scene.tif.aux.xml", SETTINGS.format("", "<NoDataValue>7</NoDataValue>").encode(), True),
        ("scene.tif.aux.xml", SETTINGS.format("", "<Scale>2</Scale>").encode(), True),
        # Added by any program that shows the scene.
        ("scene.tif.aux.xml", SETTINGS.format("", "<Histograms/>").encode(), False),
        ("scene.tif.ovr", b"overviews", False),
        ("scene.qml", b"style", False),
        ("other.tif", b"", False),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_changes_beside_a_scene_are_noticed(write_scene, tmp_path, name, content, noticed, depth):
    """So that a run that is resumed does not mix two states of its scene."""
    path = write_scene(np.ones((1, 8, 8), np.uint8))
    for level in range(depth):
        virtual = tmp_path / f"{level}.vrt"
        with quiet():
            rasterio.shutil.copy(path, virtual, driver="VRT")
        path = virtual
    before = fingerprint_of_raster(path)
    assert fingerprint_of_raster(path) == before and json.dumps(before)
    (tmp_path / name).write_bytes(content)
    assert (fingerprint_of_raster(path) != before) == noticed
    (tmp_path / name).unlink()
    with rasterio.open(tmp_path / "scene.tif") as source:
        source.statistics(1, approx=False)
    assert "STATISTICS" in (tmp_path / "scene.tif.aux.xml").read_text()
    assert fingerprint_of_raster(path) == before


def _described(path, names):
    with rasterio.open(path, "r+") as target:
        target.descriptions = names
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("step", [0.5, 0.35])
def test_each_file_is_read_by_its_own_band_order_and_type(write_scene, dtype, step):
    values = rng.integers(1, 200, (3, 8, 8)).astype(np.uint8)
    first = _described(write_scene(values, "first.tif"), ("red", "green", "blue"))
    right = rasterio.Affine(step, 0, 300004, 0, -step, 3000000)
    extra = np.concatenate([values[::-1], values[:1]]).astype(dtype)
    second = write_scene(extra, "second.tif", transform=right, photometric="minisblack")
    _described(second, ("blue", "green", "red", "nir"))
    for bands in ([3, 1], ("blue", "red")):
        with SceneReader([first, second], bands) as reader:
            data = reader.read(Window(0, 0, 8, 8 + int(8 * step / 0.5)), 16)
            ranges = reader.take_ranges()
        assert reader.indexes == [3, 1] and data.image.dtype == np.result_type("uint8", dtype)
        np.testing.assert_array_equal(data.image[:, 0, 0], values[[2, 0], 0, 0])
        np.testing.assert_array_equal(data.image[:, 0, 8], values[[2, 0], 0, 0])
        assert [one[0].tolist() for one in ranges][0] == [64, 64]
        assert ranges[1][3].max() <= 200


def test_files_that_may_differ_in_their_bands_warn_once(write_scene):
    values = rng.integers(1, 200, (3, 8, 8)).astype(np.uint8)
    first = _described(write_scene(values, "first.tif"), ("red", "green", "blue"))
    others = [
        _described(write_scene(values, name), ("nir", "red", "green"))
        for name in ("a.tif", "b.tif")
    ]
    with pytest.warns(UserWarning, match=r"a\.tif \(2 files\): bands are read by the") as told:
        SceneReader([first, *others], [1, 2, 3]).close()
    assert len(told) == 1


def test_scale_tags_count_for_each_file(write_scene):
    values = rng.integers(1, 100, (2, 8, 8)).astype(np.uint8)
    first = write_scene(values, "first.tif")
    second = write_scene(
        values, "second.tif", transform=rasterio.Affine(0.5, 0, 300004, 0, -0.5, 3000000)
    )
    with rasterio.open(second, "r+") as target:
        target.scales, target.offsets = (0.5, 0.5), (1, 1)
    with SceneReader([first, second]) as reader:
        data = reader.read(Window(0, 0, 8, 16), 16)
    np.testing.assert_array_equal(data.image[:, :8, :8], values)
    np.testing.assert_array_equal(data.image[:, :8, 8:], values * 0.5 + 1)
    with SceneReader(second, metainfo={"scale": 0.5, "offset": 1}) as reader:
        np.testing.assert_array_equal(reader.read(Window(0, 0, 8, 8), 8).image, values)
    with pytest.raises(DataError, match="scale and offset tags"):
        SceneReader(second, metainfo={"scale": 0.1})
