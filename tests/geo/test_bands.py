import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from hook.errors import ConfigError, DataError
from hook.geo.bands import (
    band_names,
    image_bands,
    match_bands,
    merge_ranges,
    resolve_bands,
    to_model_units,
    value_range,
)


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


def test_bands_but_alpha_by_name_or_number(tmp_path, rng, write_raster, random_image, named):
    with rasterio.open(named) as src:
        assert image_bands(src) == [1, 2, 3, 4]
        assert band_names(src) == ["B02", "B03", "B04", "B08"]
    path = write_raster(tmp_path / "rgba.tif", random_image(rng, (4, 9, 7), "uint8"))
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = [ColorInterp[n] for n in ("red", "alpha", "green", "blue")]
    with rasterio.open(path) as src:
        assert image_bands(src) == band_names(src) == [1, 3, 4]


RGB = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("ours", "theirs", "indexes", "asked", "found", "sure"),
    [
        # names, given in another order
        (RGB, ("blue", "green", "red"), [1, 2, 3], [1, 2, 3], [3, 2, 1], True),
        (RGB, ("nir", "Red", "GREEN", "blue"), [3, 1], None, [4, 2], True),
        (RGB, RGB, [3, 2, 1], [3, 2, 1], [3, 2, 1], True),
        # names that differ
        (RGB, ("nir", "red", "green"), [1, 2, 3], [1, 2, 3], [1, 2, 3], False),
        (("B4", "B3", "B2"), RGB, [1, 2, 3], None, [1, 2, 3], False),
        # names that the user asked for
        ((), ("blue", "green", "red"), [1, 2, 3], RGB, [3, 2, 1], True),
        (("blue", "green", "red"), (), [3, 2, 1], RGB, [3, 2, 1], False),
        (RGB, (), [1, 2, 3], RGB, [1, 2, 3], True),
        # no names
        ((), (), [2, 1], [2, 1], [2, 1], True),
        (RGB, (), [2, 1], [2, 1], [2, 1], True),
        ((), ("",) * 4, [1, 2, 3], [1, 2, 3], [1, 2, 3], False),
    ],
)
def test_bands_of_a_further_file(
    tmp_path, rng, write_raster, ours, theirs, indexes, asked, found, sure
):
    paths = []
    for name, names in (("first.tif", ours), ("other.tif", theirs)):
        values = rng.integers(0, 9, (len(names) or 3, 4, 5), dtype=np.uint16)
        paths.append(write_raster(tmp_path / name, values, names=names))
    with rasterio.open(paths[0]) as first, rasterio.open(paths[1]) as other:
        assert match_bands(first, indexes, other, asked) == (found, sure)


def test_colours_name_bands_of_a_further_file(tmp_path, rng, write_raster):
    paths = []
    for name, colours in (("a", "red green blue alpha"), ("b", "alpha blue green red")):
        path = write_raster(tmp_path / f"{name}.tif", rng.integers(0, 9, (4, 4, 5), dtype=np.uint8))
        with rasterio.open(path, "r+") as dst:
            dst.colorinterp = [ColorInterp[colour] for colour in colours.split()]
        paths.append(path)
    with rasterio.open(paths[0]) as first, rasterio.open(paths[1]) as other:
        for asked in (None, [1, 2, 3], RGB):
            assert match_bands(first, [1, 2, 3], other, asked) == ([4, 3, 2], True)


def test_a_further_file_without_the_bands_is_named(tmp_path, rng, write_raster):
    paths = [
        write_raster(tmp_path / f"{count}.tif", rng.integers(0, 9, (count, 4, 5), dtype=np.uint16))
        for count in (4, 3)
    ]
    with rasterio.open(paths[0]) as first, rasterio.open(paths[1]) as other:
        with pytest.raises(DataError, match=r"3\.tif: bands that the file does not have"):
            match_bands(first, [4, 1], other, [4, 1])


def test_ranges_are_those_of_all_valid_values(rng):
    values = rng.normal(size=(3, 8, 9)).astype(np.float32)
    valid = rng.random(values.shape) < 0.6
    valid[2] = False
    parts = [value_range(values[:, rows], valid[:, rows]) for rows in np.split(np.arange(8), 4)]
    found = merge_ranges(parts)
    for band in range(2):
        known = values[band][valid[band]].astype(float)
        expected = known.size, known.sum(), known.min(), known.max()
        np.testing.assert_allclose(found[:, band], expected, rtol=1e-6)
    np.testing.assert_array_equal(found[:, 2], [0, 0, np.inf, -np.inf])


def test_complex_values_have_no_units():
    with pytest.raises(DataError, match="complex"):
        to_model_units(np.ones((1, 2, 2), np.complex64), None, {})
