"""Generated images: their grids, tags and names, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin

from hook.apis import generate, load_model
from hook.apis.generation import _describe
from hook.errors import ConfigError, DataError, SceneError
from hook.geo.styles import write_category_names
from hook.inference.canvas import Canvas

OPTIONS = dict(progress=False)


@pytest.fixture(scope="module")
def class_run(tiny, codec_run, tmp_path_factory):
    return tiny.write_generator_run(*codec_run, tmp_path_factory.mktemp("class"), "class")


def write_mask(path, values, **options):
    profile = dict(driver="GTiff", count=1, dtype="uint8", nodata=255, crs="EPSG:32645")
    profile |= dict(height=values.shape[-2], width=values.shape[-1])
    profile |= dict(transform=from_origin(300000, 3000000, 2, 2))
    with rasterio.open(path, "w", **profile | options) as sink:
        sink.write(values.astype(sink.dtypes[0]).reshape(sink.count, *values.shape[-2:]))
    return path


@pytest.fixture
def mask(tmp_path):
    values = np.add.outer(np.arange(50), np.arange(70)) // 23 % 3
    values[:9, :9] = 255
    return write_mask(tmp_path / "land cover.tif", values)


def test_a_mask_is_filled_in_its_grid(generator_run, mask, tmp_path):
    out = tmp_path / "new" / "out"
    images = generate(generator_run, out, mask=mask, count=2, seed=5, guidance=1.5, **OPTIONS)
    names = [f"land_cover-generated-5-000{number}.tif" for number in (0, 1)]
    assert [image.path for image in images] == [out / name for name in names]
    pixels = []
    for number, image in enumerate(images):
        with rasterio.open(image.path) as source, rasterio.open(mask) as grid:
            assert (source.crs, source.transform) == (grid.crs, grid.transform)
            assert source.shape == grid.shape and source.descriptions == ("red", "nir")
            tags, values = source.tags(), source.read()
        assert tags["GENERATED"] == "YES" and tags["GENERATOR"] == "tiny_generator"
        assert "not an observation" in tags["TIFFTAG_IMAGEDESCRIPTION"]
        assert len(tags["GENERATOR_SHA256"]) == 64 and tags["GENERATOR_NUMBER"] == str(number)
        assert tags["GENERATOR_SEED"] == "5" and "1.5" in tags["GENERATOR_SAMPLING"]
        assert np.isfinite(values).all() and values.std() > 0
        assert image.seams[0] > 0 and "at seams of windows" in str(image)
        pixels.append(values)
    assert not np.array_equal(*pixels)
    options = dict(mask=mask, seed=5, guidance=1.5, **OPTIONS)
    with pytest.raises(ConfigError, match="a file that does not exist"):
        generate(generator_run, out, **options)
    before = images[0].path.read_bytes()
    (again,) = generate(generator_run, out, overwrite=True, batch_size=1, **options)
    with rasterio.open(again.path) as source:
        np.testing.assert_allclose(source.read(), pixels[0], rtol=1e-4, atol=1e-2)
    assert len(before) and again.seams == pytest.approx(images[0].seams, rel=1e-4)


def test_a_mask_whose_first_row_is_in_the_south(generator_run, mask, tmp_path):
    (north,) = generate(generator_run, tmp_path / "north", mask=mask, **OPTIONS)
    with rasterio.open(mask) as source:
        values, up = source.read(), source.transform @ rasterio.Affine(1, 0, 0, 0, -1, 50)
    write_mask(mask, values, transform=up)
    (south,) = generate(generator_run, tmp_path / "south", mask=mask, **OPTIONS)
    with rasterio.open(north.path) as one, rasterio.open(south.path) as other:
        assert other.transform == up and other.shape == (50, 70)
        np.testing.assert_array_equal(other.read(), one.read())


def test_an_image_of_one_code_is_the_same_up_to_its_border(generator_run, tmp_path, monkeypatch):
    flat = write_mask(tmp_path / "flat.tif", np.zeros((50, 70)))
    canvas = Canvas(np.full((1, 13, 18), 5, np.int64), ((), ()))
    monkeypatch.setattr("hook.apis.generation.fill_map", lambda *_, **__: canvas)
    (image,) = generate(generator_run, tmp_path / "out", mask=flat, **OPTIONS)
    with rasterio.open(image.path) as source:
        values = source.read()
    assert values.shape == (2, 50, 70)
    middle = values[:, 20:24, 20:24]  # the pixels of a code, which all codes repeat
    whole = np.tile(middle, (1, 13, 18))[:, :50, :70]
    np.testing.assert_allclose(values, whole, rtol=1e-4, atol=1e-2)


def test_tiles_of_a_class_are_pictures_that_say_so(class_run, tmp_path):
    classes = load_model(class_run).dataset_meta["classes"]
    images = generate(class_run, tmp_path, class_name=classes[1].upper(), count=3, **OPTIONS)
    assert [image.path.name for image in images] == [
        f"{classes[1]}-generated-0-000{number}.png" for number in range(3)
    ]
    with Image.open(images[2].path) as picture:
        assert picture.size == (32, 32) and picture.mode == "RGB"
        assert picture.text["GENERATED"] == "YES" and picture.text["GENERATOR_NUMBER"] == "2"
        assert f"class {classes[1]}" in picture.text["Description"]
        assert np.asarray(picture).std() > 0
    (one,) = generate(class_run, tmp_path / "two", class_name=1, batch_size=1, **OPTIONS)
    first, again = (np.asarray(Image.open(image.path)).astype(int) for image in (images[0], one))
    assert np.abs(first - again).max() <= 1
    (unknown,) = generate(class_run, tmp_path / "three", **OPTIONS)
    assert unknown.path.name == "tile-generated-0-0000.png"
    with Image.open(unknown.path) as picture:
        assert picture.text["GENERATOR_CONDITION"] == "unknown condition"


def test_a_model_in_training_mode_gives_the_same_image(generator_run, mask, tmp_path):
    generator = load_model(generator_run)
    generator.network.drop.p, generator.network.condition.drop_rate = 0.5, 0.9
    images = [
        generate(model, tmp_path / name, mask=mask, **OPTIONS)[0]
        for name, model in (("own", generator_run), ("training", generator.train()))
    ]
    with rasterio.open(images[0].path) as one, rasterio.open(images[1].path) as other:
        np.testing.assert_array_equal(one.read(), other.read())
    assert generator.training


def test_another_resolution_than_that_of_training_is_warned_of(generator_run, mask, tmp_path):
    generator = load_model(generator_run)
    generator.dataset_meta = generator.dataset_meta | dict(resolution=20.0)
    with pytest.warns(UserWarning, match="pixels of 2 m, but the model was trained on .* 20 m"):
        generate(generator, tmp_path, mask=mask, **OPTIONS)


def test_a_published_generator_is_one_file(load_tool, class_run, tmp_path):
    words = [str(class_run[1]), str(tmp_path / "tiny"), "--format", "safetensors", "--no-test"]
    load_tool("misc/publish_model.py").main([*words, "--config", str(class_run[0])])
    files = [
        generate(model, tmp_path / name, class_name=1, **OPTIONS)[0].path
        for name, model in (("own", class_run), ("published", tmp_path / "tiny.safetensors"))
    ]
    own, published = map(Image.open, files)
    assert np.array_equal(own, published) and published.text["GENERATOR"] == "tiny"


@pytest.mark.parametrize(
    "value_range, scale, dtype",
    [((0, 255), 1, "uint8"), ((0, 10000), 1, "uint16"), ((0, 1), 1e-4, "uint16"),
     ((-1000, 10000), 1, "int16"), ((0, 1), 1, "float32"), (None, 1, "float32")],
)  # fmt: skip
def test_files_have_the_smallest_type(generator_run, value_range, scale, dtype):
    codec = load_model(generator_run).codec
    codec.dataset_meta = dict(scale=scale, bands=("blue", "nir"))
    codec.data_preprocessor.value_range = value_range
    codes = _describe(codec, (50, 70), 4)
    assert codes.dtype == dtype and codes.scale == (scale, scale)
    assert codes.colours == ("Blue", "Undefined") and codes.grid == (13, 18)


def other_classes(mask):
    return write_mask(mask, np.full((50, 70), 3))


def other_names(mask):
    write_category_names(Path(f"{mask}.aux.xml"), ["a", "b", "c"])


def without_crs(mask):
    write_mask(mask, np.zeros((50, 70)), crs=None)


def scores(mask):
    write_mask(mask, np.zeros((50, 70)), dtype="float32", nodata=None)


def bands(mask):
    write_mask(mask, np.zeros((2, 50, 70)), count=2)


@pytest.mark.parametrize(
    "change, words",
    [
        (other_classes, "other classes than those of the generator"),
        (other_names, "found: a, b, c"),
        (without_crs, "has no CRS"),
        (scores, "is no mask"),
        (bands, "is no mask"),
        (lambda mask: mask.write_bytes(b"text"), "land cover.tif"),
        (lambda mask: mask.unlink(), "land cover.tif"),
    ],
)
def test_bad_masks_are_refused(generator_run, mask, tmp_path, change, words):
    change(mask)
    with pytest.raises(DataError, match=words) as caught:
        generate(generator_run, tmp_path / "out", mask=mask, **OPTIONS)
    assert caught.value.remedy and not (tmp_path / "out").exists()


def test_what_does_not_fit_is_refused(generator_run, class_run, codec_run, tiny, mask, tmp_path):
    out = tmp_path / "out"
    known = ", ".join(load_model(class_run).dataset_meta["classes"])
    for model, options, words in (
        (class_run, dict(class_name="Forest"), f"one of {known}"),
        (class_run, dict(class_name="7"), f"one of {known}"),
        (class_run, dict(class_name=1.7), f"one of {known}"),
        (class_run, dict(class_name=True), f"one of {known}"),
        (class_run, dict(class_name=[1]), f"one of {known}"),
        (class_run, dict(class_name=1, first=3), "unknown sampling options: first"),
        (class_run, dict(class_name=1, given=1), "unknown sampling options: given"),
        (class_run, dict(class_name=1, top_k=2.0), "top_k=2.0"),
        (class_run, dict(class_name=1, guidance=float("inf")), "guidance=inf"),
        (class_run, dict(mask=mask), "a mask was given"),
        (generator_run, dict(class_name=1), "a class was given"),
        (generator_run, dict(mask=mask, heat=1), "unknown sampling options: heat"),
        (generator_run, dict(count=0), "count"),
        (generator_run, dict(seed=-1), "seed"),
        (generator_run, dict(seed=2**32), "seed"),
        (codec_run, {}, "generates no images"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            generate(model, out, **OPTIONS, **options)
        assert caught.value.remedy
    assert not out.exists() or not list(out.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(SceneError):
        generate(class_run, tmp_path / "file", **OPTIONS)


def test_a_flow_draws_tiles_but_fills_no_masks(tiny, codec_run, mask, tmp_path):
    text = codec_run[0].read_text()
    config = tmp_path / "flow_codec.py"
    config.write_text(
        f'_base_ = ["{codec_run[0].as_posix()}"]\n'
        "model = dict(encoder=dict(out_channels=16), quantizer=dict(_delete_=True, "
        'type="GaussianQuantizer", embed_dims=8))\n'
    )
    assert "quantizer" in text
    weights = tiny.write_checkpoint(config, tmp_path / "codec.pth")
    run = tiny.write_generator_run(config, weights, tmp_path, network="LightningDiT")
    state = torch.load(run[1], weights_only=True)
    state["state_dict"]["feature_std"] += 1
    torch.save(state, run[1])
    (image,) = generate(run, tmp_path / "out", points=3, **OPTIONS)
    assert image.path.exists()
    with pytest.raises(ConfigError, match="a flow fills no masks"):
        generate(run, tmp_path / "out", mask=mask, **OPTIONS)
