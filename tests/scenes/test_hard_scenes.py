"""Whole maps of scenes that are hard to read, against numpy and rasterio."""

import warnings

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from hook.scenes import MapRequest, map_scene, polygonize

rng = np.random.default_rng(0)


def brightest(windows: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A pixelwise model: the class is the band with the largest value, of those counted."""
    values = np.where(valid[:, None], windows, 0).astype(np.float32)
    return (values == values.max(axis=1, keepdims=True)).astype(np.float32) / len(values[0])


def expected_map(values: np.ndarray, band_valid: np.ndarray) -> np.ndarray:
    """What :func:`brightest` gives for a whole scene (C, H, W) with the validity of its bands."""
    classes = np.where(band_valid.all(axis=0), values.astype(np.float32), 0).argmax(axis=0)
    return np.where(band_valid.any(axis=0), classes, 255)


def check_map(path, output, values, band_valid, **options):
    """Map a scene and compare every pixel and the place of the map."""
    options = {"window": 48, "overlap": 0.25, **options}
    request = MapRequest(path, output, progress=False, **options)
    report = map_scene(brightest, request, num_classes=len(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as source, rasterio.open(output) as result:
            np.testing.assert_array_equal(result.read(1), expected_map(values, band_valid))
            assert result.transform == source.transform and result.crs == source.crs
            assert result.nodata == 255
    assert report.pixels == band_valid.any(axis=0).sum()


@pytest.fixture
def crop_of(shared_data, tmp_path):
    """A function that cuts a piece out of a real file and gives its path and values."""

    def cut(name: str, row: int, col: int, size: int):
        source_path = shared_data / "multiband" / name
        if not source_path.is_file():
            pytest.skip(f"no {source_path}")
        window = RasterioWindow(col, row, size, size)
        with rasterio.open(source_path) as source:
            values = source.read(window=window)
            profile = source.profile | {
                "height": size,
                "width": size,
                "transform": source.window_transform(window),
            }
            for key in ("blockxsize", "blockysize", "tiled"):
                profile.pop(key, None)
        with rasterio.open(tmp_path / name, "w", **profile) as target:
            target.write(values)
        return tmp_path / name, values

    return cut


def test_sentinel2_whose_fill_no_tag_names(crop_of, tmp_path):
    path, values = crop_of("sentinel2_l1c_20181013_8band_uint8.tif", 0, 800, 220)
    with rasterio.open(path) as source:
        assert source.nodata is None and source.crs.is_geographic
        assert abs(source.transform.a) != pytest.approx(abs(source.transform.e), rel=1e-3)
    fill = values == 255
    assert fill.all(axis=0).any() and not fill.all()
    check_map(path, tmp_path / "map.tif", values, ~fill, nodata=255)


def test_landsat7_with_negative_nodata(shared_data, tmp_path):
    path = shared_data / "multiband" / "landsat7_1999322_8band_int16_nodata-9999.tif"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with rasterio.open(path) as source:
        values, nodata = source.read(), source.nodata
    assert values.dtype == np.int16 and nodata == -9999
    check_map(path, tmp_path / "map.tif", values, values != nodata, window=100)


def test_landsat8_cog_around_its_border(crop_of, tmp_path):
    path, values = crop_of("landsat8_b7_memphis_cog_uint16_nodata0.tif", 0, 0, 200)
    with rasterio.open(path) as source:
        assert source.nodata == 0 and source.dtypes == ("uint16",)
    check_map(path, tmp_path / "map.tif", values, values != 0)


def scene_with_holes(count: int = 3, dtype: str = "uint8") -> np.ndarray:
    values = rng.integers(1, 250, (count, 90, 110)).astype(dtype)
    values[:, 20:60, 30:80] = 0
    values[1, :10] = 0
    return values


@pytest.mark.parametrize(
    "crs, transform",
    [
        ("EPSG:32645", Affine(2.5, 0, 300000, 0, -0.75, 3000000)),
        ("EPSG:4326", Affine(1e-4, 0, 10, 0, -2e-4, 47)),
        ("EPSG:32645", Affine(0.4, 0.3, 300000, 0.3, -0.4, 3000000)),
        ("EPSG:32645", Affine(0.5, 0, 300000, 0, 0.5, 3000000)),
    ],
    ids=["non-square", "geographic", "rotated", "south-up"],
)
def test_unusual_places(write_scene, tmp_path, crs, transform):
    values = scene_with_holes()
    path = write_scene(values, nodata=0, crs=crs, transform=transform)
    check_map(path, tmp_path / "map.tif", values, values != 0)
    polygonize(tmp_path / "map.tif", tmp_path / "map.gpkg", progress=False)
    table = geopandas.read_file(tmp_path / "map.gpkg")
    assert table.crs == crs
    area = (values != 0).any(axis=0).sum() * abs(transform.determinant)
    assert shapely.area(table.geometry.values).sum() == pytest.approx(area)
    if not table.crs.is_geographic:
        # True areas differ from those of the map's plane by the scale of the projection only.
        assert table["area_m2"].sum() == pytest.approx(area, rel=2e-3)


def test_no_crs_warns_maps_and_measures_nothing(write_scene, tmp_path):
    values = scene_with_holes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        path = write_scene(values, nodata=0, crs=None, transform=None)
    with pytest.warns(UserWarning, match=r"scene\.tif: not georeferenced"):
        check_map(path, tmp_path / "map.tif", values, values != 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        polygonize(tmp_path / "map.tif", tmp_path / "map.parquet", progress=False)
    table = geopandas.read_parquet(tmp_path / "map.parquet")
    assert table.crs is None and len(table)
    assert table["area_m2"].isna().all() and table["perimeter_m"].isna().all()


def test_jpeg_2000(write_scene, tmp_path):
    with rasterio.Env() as env:
        if "JP2OpenJPEG" not in env.drivers():
            pytest.skip("this GDAL does not write JPEG 2000")
    values = scene_with_holes(dtype="uint16")
    tiff = write_scene(values)
    path = tmp_path / "scene.jp2"
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"}
    rasterio.shutil.copy(tiff, path, driver="JP2OpenJPEG", **lossless)
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(), values)
    check_map(path, tmp_path / "map.tif", values, values != 0, nodata=0)


def test_virtual_raster(write_scene, tmp_path):
    values = scene_with_holes(dtype="int16")
    tiff = write_scene(values, nodata=0)
    path = tmp_path / "scene.vrt"
    rasterio.shutil.copy(tiff, path, driver="VRT")
    check_map(path, tmp_path / "map.tif", values, values != 0)


def test_warped_virtual_raster(write_scene, tmp_path):
    tiff = write_scene(scene_with_holes(), nodata=0)
    path = tmp_path / "warped.vrt"
    with rasterio.open(tiff) as source, WarpedVRT(source, crs="EPSG:3857") as warped:
        rasterio.shutil.copy(warped, path, driver="VRT")
    with rasterio.open(path) as source:
        values, valid = source.read(), source.read_masks() > 0
    assert not valid.all()
    check_map(path, tmp_path / "map.tif", values, valid)


@pytest.mark.parametrize("inside", [True, False], ids=["in the file", "beside it"])
def test_mask_band(write_scene, tmp_path, inside):
    values = rng.integers(1, 250, (3, 90, 110)).astype(np.uint8)
    mask = rng.random((90, 110)) > 0.3
    mask[:50, :50] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
        path = write_scene(values)
        with rasterio.open(path, "r+") as target:
            target.write_mask(mask)
    assert (tmp_path / "scene.tif.msk").exists() == (not inside)
    check_map(path, tmp_path / "map.tif", values, np.broadcast_to(mask, values.shape))


def test_alpha_band(write_scene, tmp_path):
    values = rng.integers(1, 250, (4, 90, 110)).astype(np.uint8)
    values[3] = np.where(rng.random((90, 110)) > 0.3, 255, 0)
    path = write_scene(values, photometric="rgb", alpha="yes")
    with rasterio.open(path) as source:
        assert source.colorinterp[3] == ColorInterp.alpha
    valid = np.broadcast_to(values[3] > 0, (3, 90, 110))
    check_map(path, tmp_path / "map.tif", values[:3], valid)


def test_alpha_band_beside_a_nodata_tag(write_scene, tmp_path):
    values = rng.integers(0, 5, (4, 90, 110)).astype(np.uint8)
    values[3] = np.where(rng.random((90, 110)) > 0.3, 255, 0)
    path = write_scene(values, photometric="rgb", alpha="yes", nodata=0)
    valid = (values[:3] != 0) & (values[3] > 0)
    check_map(path, tmp_path / "map.tif", values[:3], valid)


def test_alpha_band_beside_a_nodata_tag_of_a_file_on_another_grid(write_scene, tmp_path):
    # Half of the second file's alpha band is 0; its columns are shifted by less than a pixel.
    first = write_scene(np.full((4, 20, 20), 7, np.uint8), "a.tif", photometric="rgb", alpha="yes")
    values = np.full((4, 20, 20), 9, np.uint8)
    values[3, :10] = 0
    place = Affine(0.5, 0, 300020.1, 0, -0.5, 3000000)
    second = write_scene(values, "b.tif", photometric="rgb", alpha="yes", nodata=0, transform=place)
    output = tmp_path / "map.tif"
    request = MapRequest([first, second], output, window=16, progress=False)
    map_scene(brightest, request, num_classes=3)
    with rasterio.open(output) as result:
        found = result.read(1)[:, 41:59]
    assert (found[:10] == 255).all() and (found[10:] == 0).all()


def test_mask_band_beside_a_nodata_value_given_by_hand(write_scene, tmp_path):
    values = rng.integers(0, 5, (3, 90, 110)).astype(np.uint8)
    mask = rng.random((90, 110)) > 0.3
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write_scene(values)
        with rasterio.open(path, "r+") as target:
            target.write_mask(mask)
    check_map(path, tmp_path / "map.tif", values, (values != 0) & mask, nodata=0)
