import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from hook.datasets.bands import parse_nodata, read_valid, resolve_bands, to_model_units
from hook.errors import ConfigError, DataError


@pytest.fixture
def named(tmp_path, rng, write_raster, random_image):
    return write_raster(
        tmp_path / "named.tif", random_image(rng, (4, 9, 7)), names=("B02", "B03", "B04", "B08")
    )


@pytest.fixture
def unnamed(tmp_path, rng, write_raster, random_image):
    return write_raster(tmp_path / "unnamed.tif", random_image(rng, (4, 9, 7)))


@pytest.mark.parametrize(
    ("bands", "indexes"),
    [
        (None, [1, 2, 3, 4]),
        (("B08", "B02"), [4, 1]),
        (("b04", "B03"), [3, 2]),
        ((3, 1, 3), [3, 1, 3]),
        (("B03", 1), [2, 1]),
    ],
)
def test_resolve_bands(named, bands, indexes):
    with rasterio.open(named) as src:
        assert resolve_bands(src, bands) == indexes


def test_names_may_only_name_the_bands_of_a_file_without_names(unnamed):
    with rasterio.open(unnamed) as src:
        assert resolve_bands(src, ("R", "G", "B", "N")) == [1, 2, 3, 4]


@pytest.mark.parametrize("names", [(), ("Band 1", "Band 2", "Band 3", "Band 4")])
def test_bands_are_found_by_their_colours(tmp_path, rng, write_raster, random_image, names):
    path = write_raster(tmp_path / "rgba.tif", random_image(rng, (4, 9, 7), "uint8"), names=names)
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = [ColorInterp[n] for n in ("blue", "green", "red", "alpha")]
    with rasterio.open(path) as src:
        assert resolve_bands(src, ("red", "green", "blue")) == [3, 2, 1]
        assert resolve_bands(src, ("Blue",)) == [1]
        with pytest.raises(DataError):
            resolve_bands(src, ("red", "nir"))
    with rasterio.open(path, "r+") as dst:  # a description is worth more than a colour
        dst.set_band_description(1, "red")
    with rasterio.open(path) as src:
        assert resolve_bands(src, ("red",)) == [1]


@pytest.mark.parametrize("bands", [("B02", "B99"), (1, 5), (0,)])
def test_an_absent_band_is_named(named, bands):
    with rasterio.open(named) as src, pytest.raises(DataError) as caught:
        resolve_bands(src, bands)
    message = str(caught.value)
    assert "named.tif" in message and str(bands[-1]) in message
    assert "B02, B03, B04, B08" in message and "remedy" in message


def test_names_do_not_choose_among_bands_without_names(unnamed):
    with rasterio.open(unnamed) as src, pytest.raises(DataError, match=r"unnamed.tif.*no names"):
        resolve_bands(src, ("R", "G", "B"))


def test_a_name_that_two_bands_have_is_refused(tmp_path, rng, write_raster, random_image):
    path = write_raster(tmp_path / "twice.tif", random_image(rng, (2, 4, 4)), names=("a", "A"))
    with rasterio.open(path) as src, pytest.raises(DataError, match="more than one band"):
        resolve_bands(src, ("a",))


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


@pytest.mark.parametrize(("value", "parsed"), [(None, None), (0, 0.0), ("-9999", -9999.0)])
def test_parse_nodata(value, parsed):
    assert parse_nodata(value) == parsed


def test_parse_nodata_nan_and_nonsense():
    assert np.isnan(parse_nodata("nan"))
    with pytest.raises(ConfigError, match="nodata"):
        parse_nodata("none of these")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_to_model_units(rng, random_image, dtype, batch):
    image = random_image(rng, (*batch, 3, 5, 6), dtype)
    valid = rng.random((*batch, 5, 6)) < 0.7
    meta = {"scale": [1e-4, 2e-4, 3e-4], "offset": -0.1, "mean": [0.1, 0.2, 0.3]}
    done = to_model_units(image, valid, meta)
    assert done.dtype == np.float32 and done.shape == image.shape
    exact = image.astype(np.float64) * np.reshape(meta["scale"], (3, 1, 1)) - 0.1
    exact = np.where(valid[..., None, :, :], exact, np.reshape(meta["mean"], (3, 1, 1)))
    np.testing.assert_allclose(done, exact, rtol=1e-6, atol=1e-6)


def test_to_model_units_leaves_the_input_alone_and_fills_nan_with_zero():
    image = np.array([[[1.0, np.nan]]], dtype=np.float32)
    done = to_model_units(image, ~np.isnan(image[0]), {})
    np.testing.assert_array_equal(done, [[[1.0, 0.0]]])
    assert np.isnan(image[0, 0, 1])


def test_to_model_units_wants_one_number_per_band():
    with pytest.raises(ConfigError, match="scale") as caught:
        to_model_units(np.zeros((4, 2, 2), np.uint8), None, {"scale": [1, 2, 3]})
    assert "4 bands" in str(caught.value) and "3 numbers" in str(caught.value)
