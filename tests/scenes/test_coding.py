"""Blocks with margins of a scene, and what files of codes say of it."""

import math

import numpy as np
import pytest
import rasterio

from hook.errors import ConfigError, DataError
from hook.scenes.codes import SceneCodes
from hook.scenes.grid import Window
from hook.scenes.reader import REPEATED, Halo, HaloReader, SceneReader
from hook.scenes.request import CodingRequest, EncodingRequest


def codes_of(**changes):
    values = dict(model="m", digest="d", sizes=(16,), stride=4, height=10, width=6, dtype="uint16")
    values |= dict(nodata=0.0, bands=("red",), colours=("Gray",), scale=(1.0,), offset=(0.0,))
    return SceneCodes(**{**values, **changes})


@pytest.mark.parametrize("start", [(0, 0), (8, 4), (24, 20)])
def test_a_window_has_what_surrounds_it_and_nothing_beyond_the_scene(write_scene, rng, start):
    values = rng.integers(1, 99, (2, 30, 27)).astype(np.uint8)
    values[:, 5, 5] = 0
    halo = Halo(take=4, give=1, margin=8, area=Window(0, 0, 8, 7))
    with HaloReader(SceneReader(write_scene(values, nodata=0)), halo) as reader:
        assert (reader.height, reader.width) == (8, 7)
        window = Window(start[0] // 4, start[1] // 4, 2, 2)
        image, valid, covered = reader.read(window, 2)
    whole = np.pad(values, ((0, 0), (0, 2), (0, 1)), mode="edge")  # to whole cells
    known = np.pad((values[0] > 0).astype(int), ((0, 2), (0, 1)), mode="edge")
    known[30:] *= REPEATED
    known[:30, 27:] *= REPEATED
    part = tuple(slice(first, first + 24) for first in start)
    assert np.array_equal(image, np.pad(whole, ((0, 0), (8, 24), (8, 24)))[(slice(None), *part)])
    assert np.array_equal(valid, np.pad(known, ((8, 24), (8, 24)))[part])
    assert covered.shape == (2, 2) and covered.all()


def test_codes_are_read_for_a_finer_grid(write_scene, rng):
    values = rng.integers(0, 9, (1, 6, 5)).astype(np.uint8)
    halo = Halo(take=1, give=4, margin=1, area=Window(8, 8, 14, 11), nodata=9)
    with HaloReader(SceneReader(write_scene(values), nodata="nan"), halo) as reader:
        image, valid, _ = reader.read(Window(8, 8, 6, 3), 8)
        assert reader.transform.a == pytest.approx(0.5 / 4)
        assert reader.transform.c == pytest.approx(300000 + 8 * 0.5 / 4)
    found = np.pad(values, ((0, 0), (0, 4), (0, 4)), constant_values=9)[:, 3:7, 3:7]
    assert np.array_equal(image, found) and np.array_equal(valid, found[0] != 9)


@pytest.mark.parametrize(
    "dtype, nodata, near", [("uint16", 0.0, 1), ("uint8", 255.0, 254), ("int16", -9999.0, -9998)]
)
def test_valid_pixels_never_decode_to_nodata(dtype, nodata, near):
    codes = codes_of(dtype=dtype, nodata=nodata)
    values = np.array([[[nodata, nodata, 7.4, 1e9]]], np.float32)
    stored = codes.to_stored(values, np.array([[True, False, True, True]]))
    assert stored.dtype == dtype
    assert stored.ravel().tolist() == [
        near,
        nodata,
        7,
        min(np.iinfo(dtype).max, 1e9) - (near == 254),
    ]


def test_floating_point_has_nan_where_nothing_is_known():
    codes = codes_of(dtype="float32", nodata=None, scale=(0.5,), offset=(1.0,))
    stored = codes.to_stored(np.ones((1, 1, 2), np.float32) * 3, np.array([[True, False]]))
    assert stored[0, 0, 0] == 4 and math.isnan(stored[0, 0, 1])


@pytest.mark.parametrize("sizes, words", [((16,), 2), ((1024, 1024), 1), ((1 << 18,), 1)])
def test_validity_packs_into_the_type_of_the_codes(rng, sizes, words):
    codes = codes_of(sizes=sizes)
    assert codes.code_dtype == {16: "uint8", 1024: "uint16", 1 << 18: "uint32"}[sizes[0]]
    valid = rng.random((3, 5, 4, 16)) > 0.5
    packed = codes.pack_validity(valid)
    assert packed.shape == (3, words, 5, 4) and packed.dtype == codes.code_dtype
    assert np.array_equal(codes.unpack_validity(packed), valid)
    assert codes_of(sizes=(255,)).code_dtype == "uint8"
    assert codes_of(sizes=(256,)).code_dtype == "uint16"  # 256 itself says: no data


def test_tags_come_back(write_scene):
    two = dict(bands=("rot", None), colours=("Red", "Gray"), scale=(0.1, 1 / 3), offset=(0.0, 1.0))
    codes = codes_of(nodata=math.nan, dtype="float32", **two)
    path = write_scene(np.zeros((1, 3, 2), np.uint8))
    with rasterio.open(path, "r+") as target:
        target.update_tags(**codes.tags())
    found = SceneCodes.read(path)
    assert math.isnan(found.nodata) and found.bands == ("rot", None)
    assert found.scale == (0.1, 1 / 3) and found.sizes == (16,)
    with rasterio.open(path, "r+") as target:
        target.update_tags(HOOK_HEIGHT="40")
    with pytest.raises(DataError, match="its pixels are not the codes"):
        SceneCodes.read(path)
    with rasterio.open(path, "r+") as target:
        target.update_tags(HOOK_SIZES="none")
    with pytest.raises(DataError, match="is not a file of codes"):
        SceneCodes.read(path)


@pytest.mark.parametrize(
    "tag, values",
    [
        ("BANDS", ("null", "[]", "[1]", '"x"', "[null, null]")),
        ("COLOURS", ("null", "[]", "[3]", '"x"')),
        ("SCALE", ("null", "[]", "[0]", "[NaN]", '["x"]', "1", "[1, 1]")),
        ("OFFSET", ("null", "[]", "[1e400]", '["x"]', "0")),
        ("NODATA", ("-1", "1e99", "NaN", '"x"', "[]", "true", "0.5")),
        ("DTYPE", ("complex64", "O", "nonsense", "")),
        ("STRIDE", ("0", "-4", "null", "4.5", "[4]")),
        ("HEIGHT", ("null", "NaN", '"x"', "{}", "true")),
        ("SIZES", ("null", "[]", "16", "[0]", '["x"]')),
        ("TAGGED", ("null", '"no"')),
        ("MATRIX", ("[1]", "4", '["x", 0, 0, 1]')),
        ("MASKED", ("0", '"no"')),
    ],
)
def test_tags_that_were_changed_are_named(write_scene, tag, values):
    path = write_scene(np.zeros((1, 3, 2), np.uint8))
    for value in values:
        with rasterio.open(path, "r+") as target:
            target.update_tags(**codes_of().tags() | {f"HOOK_{tag}": value})
        with pytest.raises(DataError, match="is not a file of codes") as caught:
            SceneCodes.read(path)
        assert caught.value.remedy
    with rasterio.open(path, "r+") as target:
        target.update_tags(**codes_of().tags())
    assert SceneCodes.read(path) == codes_of()


@pytest.mark.parametrize(
    "kind, options",
    [
        (CodingRequest, dict(overlap=0.25)),
        (CodingRequest, dict(aoi=(0, 0, 1, 1))),
        (CodingRequest, dict(bounds=(1, 0, 0, 1))),
        (CodingRequest, dict(creation_options="none")),
        (CodingRequest, dict(output="codes.png")),
        (EncodingRequest, dict(entropy=True)),
        (EncodingRequest, dict(max_error=-1)),
        (EncodingRequest, dict(max_error=1, errors=False)),
    ],
)
def test_impossible_options_are_refused(kind, options):
    with pytest.raises(ConfigError):
        kind("scene.tif", **{"output": "codes.tif", **options})
