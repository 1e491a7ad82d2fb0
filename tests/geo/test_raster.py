import warnings

import numpy as np
import pytest
import rasterio
from pyproj import CRS
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from hook.errors import ConfigError, DataError, SceneError
from hook.geo.raster import (
    Validity,
    nodata_of,
    open_dataset,
    open_raster,
    parse_nodata,
    read_valid,
    valid_values,
    warped,
)

# ------------------------------------------------------------------------------------ opening


@pytest.mark.parametrize("error", [DataError, SceneError])
def test_what_cannot_be_opened_is_named(tmp_path, error):
    with pytest.raises(error, match=r"none\.tif cannot be read") as caught:
        open_dataset(tmp_path / "none.tif", error)
    assert caught.value.found == "no such file"
    (tmp_path / "text.tif").write_text("no raster")
    with (
        pytest.raises(error, match=r"text\.tif cannot be read"),
        open_raster(tmp_path / "text.tif", error),
    ):
        raise AssertionError("it is no raster")


def test_errors_while_reading_are_those_of_the_file(tmp_path, rng, write_raster, random_image):
    path = write_raster(tmp_path / "cut.tif", random_image(rng, (3, 200, 300)))
    with open(path, "r+b") as file:
        file.truncate(40_000)
    with pytest.raises(DataError, match=r"cut\.tif cannot be read"), open_raster(path) as source:
        source.read()


def test_a_missing_georeference_makes_no_noise(tmp_path, rng, write_raster, random_image):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_raster(
            tmp_path / "bare.tif", random_image(rng, (1, 4, 4)), None, rasterio.Affine.identity()
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", rasterio.errors.NotGeoreferencedWarning)
        with open_raster(path) as source:
            assert source.read().shape == (1, 4, 4)


@pytest.mark.parametrize("dtype", ["complex_int16", "complex64", "complex128"])
def test_complex_values_are_refused(tmp_path, dtype):
    path = tmp_path / "radar.tif"
    profile = dict(driver="GTiff", count=1, height=4, width=4, crs="EPSG:32633")
    transform = rasterio.transform.from_origin(0, 4, 1, 1)
    with rasterio.open(path, "w", dtype=dtype, transform=transform, **profile) as sink:
        sink.write(np.full((1, 4, 4), 3j, np.complex64))
    with pytest.raises(SceneError, match=r"radar\.tif: complex values") as caught:
        open_dataset(path, SceneError)
    assert dtype in str(caught.value.found) and "amplitude" in caught.value.remedy


def test_a_crs_that_proj_refuses_is_named(tmp_path, write_raster, monkeypatch):
    path = write_raster(tmp_path / "odd.tif", np.zeros((1, 4, 4), np.uint8))
    monkeypatch.setattr("hook.geo.measure.horizontal_crs", lambda crs: CRS("EPSG:0"))
    with pytest.raises(SceneError, match=r"odd\.tif cannot be read") as caught:
        open_dataset(path, SceneError)
    assert "EPSG:0" in caught.value.found


@pytest.mark.parametrize(
    "transform",
    [
        (1, 0, np.nan, 0, -1, 0),
        (np.inf, 0, 0, 0, -1, 0),
        (1, 1, 0, 1, 1, 0),
        (1e30, 0, 0, 0, -1e30, 0),
    ],
)
def test_a_transform_without_an_inverse_is_refused(tmp_path, write_raster, transform):
    image = np.zeros((1, 4, 4), np.uint8)
    path = write_raster(tmp_path / "flat.tif", image, transform=rasterio.Affine(*transform))
    with pytest.raises(SceneError, match=r"flat\.tif: a transform without an inverse"):
        open_dataset(path, SceneError)


# ------------------------------------------------------------------------------------ validity


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 0), ("int16", -9999), ("float32", -1.5), ("float32", np.nan)]
)
def test_read_valid_follows_the_tag(tmp_path, rng, write_raster, random_image, dtype, nodata):
    image = random_image(rng, (3, 20, 30), dtype)
    hole = rng.random(image.shape) < 0.1
    image[hole] = nodata
    path = write_raster(tmp_path / "tag.tif", image, nodata=nodata)
    window = Window(4, 3, 20, 11)
    with rasterio.open(path) as src:
        chip = src.read(window=window)
        valid = read_valid(src, [1, 2, 3], chip, window)
    present = ~np.isnan(image) if np.isnan(nodata) else image != nodata
    np.testing.assert_array_equal(valid, present.all(axis=0)[3:14, 4:24])


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_read_valid_follows_an_alpha_band(tmp_path, rng, write_raster, random_image, count):
    image = random_image(rng, (count, 20, 30), "uint8")
    image[-1] = 255 * (rng.random((20, 30)) < 0.5)
    path = write_raster(tmp_path / "alpha.tif", image)
    with rasterio.open(path, "r+") as dst:
        kinds = [ColorInterp.gray, *[ColorInterp.undefined] * (count - 2), ColorInterp.alpha]
        dst.colorinterp = kinds
    window = Window(4, 3, 20, 11)
    with rasterio.open(path) as src:
        assert src.colorinterp[-1] == ColorInterp.alpha
        valid = read_valid(src, [1], src.read([1], window=window), window)
    np.testing.assert_array_equal(valid, image[-1, 3:14, 4:24] > 0)


def test_read_valid_follows_an_internal_mask(tmp_path, rng, write_raster, random_image):
    path = write_raster(tmp_path / "mask.tif", random_image(rng, (3, 20, 30), "uint8"))
    mask = rng.random((20, 30)) < 0.5
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dst:
        dst.write_mask(mask)
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(read_valid(src, [1, 2, 3], src.read()), mask)


def test_the_meta_overrides_the_tag_and_nan_never_counts(tmp_path, write_raster):
    image = np.array([[[0, 1, 7, np.nan]], [[2, 3, 4, 5]]], dtype=np.float32)
    path = write_raster(tmp_path / "override.tif", image, nodata=0)
    with rasterio.open(path) as src:
        valid = read_valid(src, [1, 2], src.read(), nodata=7.0)
    np.testing.assert_array_equal(valid, [[True, True, False, False]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, np.finfo(np.float32).min])
def test_what_no_model_can_take_is_no_data(tmp_path, write_raster, dtype, value):
    image = np.array([[[1, value, -3]], [[2, 3, 4]]], dtype)
    path = write_raster(tmp_path / "infinite.tif", image)
    with rasterio.open(path) as src:
        valid = read_valid(src, [1, 2], src.read())
    np.testing.assert_array_equal(valid, [[True, False, True]])
    np.testing.assert_array_equal(valid_values(image, None), [[True, False, True]])
    assert not valid_values(np.full((1, 1, 1), 1e300), None)


@pytest.mark.parametrize("nodata", [None, 3])
def test_an_alpha_band_that_is_read_is_data(tmp_path, rng, write_raster, nodata):
    image = rng.integers(0, 4, (4, 20, 30), dtype=np.uint8)
    path = write_raster(tmp_path / "nir.tif", image, photometric="rgb", alpha="yes", nodata=nodata)
    with rasterio.open(path) as src:
        assert src.colorinterp[3] == ColorInterp.alpha
        for bands in ([4, 1, 2], [2, 4]):
            chosen = src.read(bands)
            found = Validity(src, bands).read(chosen)
            np.testing.assert_array_equal(found, chosen != (nodata or 4))
            half = dict(out_shape=(len(bands), 10, 15))
            assert nodata or Validity(src, bands).read(src.read(bands, **half), **half).all()
        masked = Validity(src, [4, 1], masked_by=[4]).read(src.read([4, 1]))
        np.testing.assert_array_equal(masked, (src.read([4, 1]) != (nodata or 4)) & (image[3] > 0))


@pytest.mark.parametrize(("value", "parsed"), [(None, None), (0, 0.0), ("-9999", -9999.0)])
def test_parse_nodata(value, parsed):
    assert parse_nodata(value) == parsed


def test_parse_nodata_nan_and_nonsense():
    assert np.isnan(parse_nodata("nan"))
    with pytest.raises(ConfigError, match="nodata"):
        parse_nodata("none of these")


def test_a_type_that_cannot_hold_the_nodata_value_has_none(tmp_path, write_raster):
    path = write_raster(tmp_path / "byte.tif", np.zeros((1, 2, 2), np.uint8), nodata=7)
    with rasterio.open(path) as source:
        assert nodata_of(source, 1) == 7 and nodata_of(source, 1, 9.0) == 9
        for value in (-9999.0, 0.5, np.nan, np.inf, 256.0):
            assert nodata_of(source, 1, value) is None


@pytest.fixture
def marked(tmp_path, rng, write_raster):
    """Write a raster with an alpha band, a nodata value, a mask; return which pixels hold data."""

    def write(count, alpha=None, nodata=None, mask=False):
        image = rng.integers(1, 9, (count, 20, 30), dtype=np.uint8)
        image[:, :3] = 0
        valid = np.ones((20, 30), bool)
        if nodata is not None:
            valid[:3] = False
        path = tmp_path / "marked.tif"
        if alpha:
            image[alpha - 1] = 255
            image[alpha - 1, :, :5] = 0
            valid[:, :5] = False
        write_raster(path, image, nodata=nodata, photometric="minisblack")
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
            kinds = [ColorInterp.gray] + [ColorInterp.undefined] * (count - 1)
            if alpha:
                kinds[alpha - 1] = ColorInterp.alpha
            target.colorinterp = kinds
            if mask:
                opaque = np.ones((20, 30), bool)
                opaque[:, 20:] = False
                target.write_mask(opaque)
                valid &= opaque
        return path, valid

    return write


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("nodata", [None, 0])
@pytest.mark.parametrize(
    ("count", "alpha"), [(1, None), (2, 2), (3, None), (3, 1), (3, 3), (4, 4), (5, 2), (5, 5)]
)
def test_nodata_alpha_and_mask_all_count(marked, count, alpha, nodata, mask):
    path, valid = marked(count, alpha, nodata, mask)
    window = Window(2, 1, 25, 18)
    with rasterio.open(path) as source:
        (index, *_) = [k for k in source.indexes if k != alpha]
        values = source.read([index], window=window)
        found = read_valid(source, [index], values, window)
    np.testing.assert_array_equal(found, valid[1:19, 2:27])


def test_a_nodata_value_of_the_caller_replaces_no_alpha_band(marked):
    path, valid = marked(4, alpha=4, nodata=0)
    with rasterio.open(path) as source:
        values = source.read([1, 2])
        found = Validity(source, [1, 2], 5).read(values)
    opaque = np.arange(30) >= 5
    np.testing.assert_array_equal(found, (values != 5) & opaque)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(("count", "alpha"), [(1, None), (3, None), (4, 4), (5, 5), (6, None)])
@pytest.mark.parametrize("nodata", [None, 0])
def test_a_warped_view_holds_no_data_where_its_raster_does_not_reach(
    marked, count, alpha, nodata, mask
):
    path, valid = marked(count, alpha, nodata, mask and nodata is None and not alpha)
    with rasterio.open(path) as source:
        grid = source.transform @ rasterio.Affine.translation(-4, -2)
        with warped(source, source.crs, transform=grid, width=40, height=25) as view:
            found = read_valid(view, [1], view.read([1]))
    expected = np.zeros((25, 40), bool)
    expected[2:22, 4:34] = valid
    np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("error::rasterio.errors.NodataShadowWarning")
@pytest.mark.parametrize("count", [4, 5])
def test_resampled_pixels_follow_gdal_s_masks_and_the_alpha_band(marked, count):
    path, valid = marked(count, alpha=count, nodata=0)
    with rasterio.open(path) as source:
        options = dict(window=Window(0, 0, 30, 20), out_shape=(2, 10, 15))
        values = source.read([1, 2], **options)
        found = Validity(source, [1, 2]).read(values, **options)
        alpha = source.read(count, window=options["window"], out_shape=(10, 15)) > 0
    np.testing.assert_array_equal(found, (values != 0) & alpha)
