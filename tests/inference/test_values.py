"""Values that a model cannot take: far from its training data, complex, infinite, or none."""

import csv
import warnings

import numpy as np
import pytest
import rasterio

from hook.apis import (
    Classifier,
    RegionExtractor,
    SceneMapper,
    embed_chip,
    predict_files,
    show_tokens,
    tokenize,
)
from hook.cli import main
from hook.errors import DataError
from hook.geo.bands import value_range
from hook.inference.images import ValueCheck


class Model:
    """What :class:`ValueCheck` looks at."""

    def __init__(self, mean, std, **meta):
        from hook.models import ClsDataPreProcessor

        self.data_preprocessor = ClsDataPreProcessor(mean=mean, std=std)
        self.dataset_meta = meta


IMAGENET = Model([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
UNIT = Model([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], scale=1 / 255)
REFLECTANCE = Model([0.11, 0.10, 0.08], [0.05, 0.05, 0.05])
DIGITAL = Model([1117.2, 1041.9, 946.5], [333.0, 395.1, 594.5])
DECIBEL = Model([-12.0, -19.0, -7.0], [4.0, 5.0, 3.0])


def photo(low=1, high=251, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return (low + (high - low) * rng.beta(2, 3, (3, 40, 40))).astype(dtype)


NIGHT = np.zeros((3, 40, 40), np.uint8)
NIGHT[:, 20, 20] = 3


@pytest.mark.parametrize(
    ("model", "image", "far"),
    [
        *[(model, photo(), False) for model in (IMAGENET, UNIT)],
        (IMAGENET, photo().astype(np.float32), False),
        (IMAGENET, photo(2, 30), False),
        (IMAGENET, photo(0, 4), False),
        (IMAGENET, NIGHT, False),
        (IMAGENET, photo(235, 256), False),
        (IMAGENET, photo(-6, 268, np.float32), False),  # overshoot of a resampling
        *[(model, photo() / np.float32(255), True) for model in (IMAGENET, UNIT)],
        (IMAGENET, photo() / np.float32(127.5) - 1, True),
        (IMAGENET, photo().astype(np.uint16) * 4, True),
        (IMAGENET, photo().astype(np.uint16) * 16, True),
        (IMAGENET, photo().astype(np.uint16) * 257, True),
        (UNIT, photo().astype(np.uint16) * 16, True),
        (IMAGENET, photo(200, 4000, np.uint16), True),
        (IMAGENET, photo(0, 10000, np.uint16), True),
        (REFLECTANCE, photo(100, 3000) / np.float32(1e4), False),
        (REFLECTANCE, photo(3000, 16000, np.uint16) / np.float32(3e4), False),
        (REFLECTANCE, photo(), True),
        (REFLECTANCE, photo(100, 3000, np.uint16), True),
        (DIGITAL, photo(100, 3000, np.uint16), False),
        (DIGITAL, photo(90, 400, np.uint16), False),
        (DIGITAL, photo() / np.float32(255), True),
        (DECIBEL, photo(-30, 5, np.float32), False),
        (DECIBEL, photo() * np.float32(100), True),
    ],
)
def test_values_far_from_the_training_data_are_spoken_of(model, image, far):
    check = ValueCheck(model)
    check.add("scene.tif", value_range(image, np.ones(image.shape, bool)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check.warn()
    assert len(told) == far
    if far:
        assert "scene.tif: values from" in str(told[0].message)


def test_a_model_without_statistics_says_nothing():
    for model in (Model([0.0] * 3, [1.0] * 3), Model(None, None)):
        check = ValueCheck(model)
        check.add("scene.tif", value_range(photo() * 1e6, np.ones((3, 40, 40), bool)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check.warn()


@pytest.fixture(scope="module")
def models():
    return {
        "map": SceneMapper("hook-fast-tiny_banepa-buildings"),
        "regions": RegionExtractor("hook-fast-tiny_banepa-buildings"),
        "classify": Classifier("hook-fast-tiny_eurosat"),
    }


def ways(models, path, folder, image):
    model = models["map"].model
    out = dict(overwrite=True, progress=False)
    return {
        "map": lambda: models["map"].map(path, folder / "m.tif", window=64, **out),
        "predict": lambda: predict_files(model, [path], folder / "p.tif", **out),
        "regions": lambda: models["regions"].extract(path, folder / "r.parquet", window=64, **out),
        "classify": lambda: models["classify"].predict([path, image], progress=False),
        "tokenize": lambda: tokenize(model, path),
        "array": lambda: tokenize(model, image),
        "chip": lambda: embed_chip(model, path),
    }


@pytest.mark.filterwarnings("ignore:.*pixels of")
@pytest.mark.parametrize("factor", [1, 257])
def test_every_way_in_warns_once_of_values_out_of_range(models, write_scene, tmp_path, factor):
    image = photo()[:, :64, :64].astype(np.uint16) * factor
    path = write_scene(image)
    for name, call in ways(models, path, tmp_path, image).items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            call()
        found = [str(one.message) for one in told if "values from" in str(one.message)]
        assert len(found) == (factor > 1), name
        if factor > 1 and name != "classify":
            assert "trained on values" in found[0]
        if factor > 1 and name == "classify":
            assert "(2 of 2 images)" in found[0]


@pytest.mark.parametrize("dtype", ["complex_int16", "complex64", "complex128"])
def test_every_way_in_refuses_complex_values(models, tmp_path, dtype):
    path = tmp_path / "radar.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=40, width=40, dtype=dtype, crs="EPSG:32645",
        transform=rasterio.transform.from_origin(3e5, 3e6, 0.13, 0.13),
    ) as sink:  # fmt: skip
        sink.write(photo().astype(np.complex64) * 1j)
    image = photo().astype(np.complex64)
    for call in ways(models, path, tmp_path, image).values():
        with pytest.raises(
            DataError, match=r"radar\.tif: complex values|does not fit|not an image"
        ):
            call()


@pytest.mark.filterwarnings("ignore:.*(no CRS|georeferenced)")
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinite_values_are_no_data_everywhere(models, write_scene, tmp_path, value):
    image = photo().astype(np.float32)
    image[1, 3:9, 5:11] = value
    path = write_scene(image)
    hole = np.zeros((40, 40), bool)
    hole[3:9, 5:11] = True
    model = models["map"].model
    bands = dict(window=64, overwrite=True, progress=False)
    models["map"].map(path, tmp_path / "m.tif", **bands)
    (predicted,) = predict_files(model, [path])
    np.testing.assert_array_equal(predicted.mask == 255, hole)
    assert np.isfinite(models["classify"].predict(path, progress=False).score).all()
    from_file, from_array = tokenize(model, path), tokenize(model, image)
    assert np.isfinite(from_file.tokens.numpy()).all()
    np.testing.assert_allclose(from_file.tokens, from_array.tokens, atol=1e-5)
    table = models["regions"].extract(path, window=64, progress=False)
    columns = [name for name in table.columns if name.startswith(("mean_", "std_"))]
    assert np.isfinite(table[columns].to_numpy()).all()
    with pytest.raises(DataError, match="no valid pixel"):
        embed_chip(model, np.full((3, 40, 40), value, np.float32))


def test_a_scene_without_a_valid_pixel_is_told_of(models, write_scene, tmp_path):
    blank = write_scene(np.zeros((3, 40, 40), np.uint8), "blank.tif", nodata=0)
    options = dict(window=64, progress=False)
    with pytest.warns(UserWarning, match=r"blank\.tif: no valid pixel, so the output is empty"):
        models["map"].map(blank, tmp_path / "m.tif", **options)
    with pytest.warns(UserWarning, match=r"blank\.tif: no valid pixel, so the output is empty"):
        models["regions"].extract(blank, tmp_path / "r.parquet", **options)


@pytest.mark.parametrize("show", [tokenize, show_tokens, embed_chip])
def test_an_image_without_a_valid_pixel_has_no_tokens(models, write_scene, show):
    model, blank = models["map"].model, np.zeros((3, 40, 40), np.uint8)
    with pytest.raises(DataError, match=r"blank\.tif has no valid pixel"):
        show(model, write_scene(blank, "blank.tif", nodata=0))
    with pytest.raises(DataError, match="with a valid pixel"):
        show(model, blank, valid=blank[0])
    with pytest.raises(DataError, match="the (image|chip) has no valid pixel"):
        show(model, np.full((3, 40, 40), np.nan, np.float32))


@pytest.mark.parametrize("marked", ["nodata", "NaN"])
def test_an_image_without_a_valid_pixel_has_no_class(models, write_scene, tmp_path, capsys, marked):
    blank = (
        np.zeros((3, 40, 40), np.float32)
        if marked == "nodata"
        else np.full((3, 40, 40), np.nan, np.float32)
    )
    blank = write_scene(blank, "blank.tif", nodata=0 if marked == "nodata" else None)
    full = write_scene(photo(), "full.tif")
    with pytest.warns(UserWarning, match=r"blank\.tif: no valid pixel, and so no class"):
        table = models["classify"].predict([blank, full], progress=False)
    assert table["class"].isna().tolist() == [True, False]
    assert np.isnan(table.score[0]) and table.score[1] > 0
    alone = models["classify"].predict(full, progress=False)
    np.testing.assert_allclose(alone.score[0], table.score[1], rtol=1e-4)
    out = tmp_path / "out.csv"
    command = ["predict", "--model", "hook-fast-tiny_eurosat", str(blank), str(full), "--quiet"]
    main(command)
    main([*command, "--out", str(out)])
    printed = capsys.readouterr()
    assert "no valid pixel" in printed.err
    for text in (printed.out, out.read_text()):
        rows = list(csv.DictReader(text.splitlines()))
        assert rows[0]["class"] == "" and rows[1]["class"] == table["class"][1]


def test_bands_of_images_are_selected_as_for_maps(write_scene, capsys):
    image = photo()
    sentinel = np.concatenate([image[::-1], image[:2]])  # blue, green, red, two more
    path = write_scene(sentinel, "s2.tif", photometric="minisblack")
    with rasterio.open(path, "r+") as target:
        target.descriptions = ("B2", "B3", "B4", "B8", "B11")
    own = write_scene(image, "own.tif")
    with pytest.raises(DataError, match="no band named 'red'") as caught:
        predict_files("hook-fast-tiny_eurosat", [path])
    assert "--bidx" in caught.value.remedy and "metainfo" not in str(caught.value)
    with pytest.raises(DataError) as caught:
        tokenize("hook-fast-tiny_eurosat", path)
    assert "band descriptions" in caught.value.remedy and "metainfo" not in str(caught.value)
    (expected,) = predict_files("hook-fast-tiny_eurosat", [own])
    for bands in ([3, 2, 1], ("B4", "B3", "B2")):
        (found,) = predict_files("hook-fast-tiny_eurosat", [path], bidx=bands)
        np.testing.assert_array_equal(found.scores, expected.scores)
    main(["predict", "--model", "hook-fast-tiny_eurosat", str(path), "--bidx", "3,2,1", "-q"])
    assert f",{expected.label}," in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*(no CRS|georeferenced)")
def test_tags_reach_maps_and_predictions(models, write_scene, tmp_path):
    image = photo()
    plain = write_scene(image.astype(np.float32), "plain.tif")
    tagged = write_scene((image.astype(np.int16) - 10) * 4, "tagged.tif")
    with rasterio.open(tagged, "r+") as target:
        target.scales, target.offsets = (0.25,) * 3, (10.0,) * 3
    found = []
    for path in (plain, tagged):
        models["map"].map(path, tmp_path / "m.tif", window=64, overwrite=True, progress=False)
        with rasterio.open(tmp_path / "m.tif") as source:
            (one,) = predict_files(models["map"].model, [path])
            found.append((source.read(1), one.mask))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_tags_of_a_data_array_are_those_of_its_file(models, write_scene):
    rioxarray = pytest.importorskip("rioxarray")
    path = write_scene(photo().astype(np.int16))
    with rasterio.open(path, "r+") as target:
        target.scales, target.offsets = (0.5,) * 3, (7.0,) * 3
    scores = [
        models["classify"].predict(image, progress=False).score[0]
        for image in (
            path,
            rioxarray.open_rasterio(path),
            rioxarray.open_rasterio(path, mask_and_scale=True),
        )
    ]
    assert scores[0] == scores[1]
    np.testing.assert_allclose(scores[2], scores[0], rtol=1e-5)
