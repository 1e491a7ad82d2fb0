"""Maps of surprise: their grid and values, and what is refused."""

import numpy as np
import pytest
import rasterio
import torch

from hook.apis import encode, load_model, surprise_map
from hook.errors import ConfigError, DataError
from hook.inference.surprise import code_bits

OPTIONS = dict(progress=False)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A scene of 75 x 50 pixels with a corner without data."""
    path = tmp_path_factory.mktemp("surprise") / "scene.tif"
    values = np.random.default_rng(0).integers(40, 200, (2, 50, 75)).astype(np.uint16)
    values[:, :9, :9] = 0
    profile = dict(driver="GTiff", count=2, height=50, width=75, dtype="uint16", nodata=0)
    transform = rasterio.transform.from_origin(300000, 3000000, 0.5, 0.5)
    with rasterio.open(path, "w", crs="EPSG:32645", transform=transform, **profile) as sink:
        sink.write(values)
        sink.descriptions = ("red", "nir")
    return path


def test_a_map_has_the_bits_of_the_codes_in_their_grid(scene, generator_run, codec_run, tmp_path):
    report = surprise_map(generator_run, scene, tmp_path / "new" / "map.tif", **OPTIONS)
    encode(codec_run, scene, tmp_path / "codes.tif", errors=False, **OPTIONS)
    with rasterio.open(report.path) as source, rasterio.open(tmp_path / "codes.tif") as coded:
        bits, codes, nothing = source.read(1), coded.read([1]), coded.nodata
        assert (source.crs, source.transform) == (coded.crs, coded.transform)
        assert np.isnan(source.nodata) and source.units == ("bit",)
        assert source.tags()["GENERATOR"] == "tiny_generator"
    known = codes[0] != nothing
    assert not known[0, 0] and known.sum() == report.positions
    expected = code_bits(load_model(generator_run), codes, known, **OPTIONS)
    np.testing.assert_allclose(bits, expected, rtol=1e-4, atol=1e-4)
    assert report.mean == pytest.approx(np.nanmean(bits), rel=1e-4)
    assert f"{report.mean:.2f} bits on average" in str(report)
    before = report.path.read_bytes()
    with pytest.raises(ConfigError, match="a file that does not exist"):
        surprise_map(generator_run, scene, report.path, **OPTIONS)
    assert report.path.read_bytes() == before
    surprise_map(generator_run, scene, report.path, overwrite=True, batch_size=1, **OPTIONS)
    with rasterio.open(report.path) as source:
        np.testing.assert_allclose(source.read(1), bits, rtol=1e-3, atol=1e-3)


def test_without_an_output_the_map_is_an_array(scene, generator_run):
    pytest.importorskip("rioxarray")
    whole = surprise_map(generator_run, scene, **OPTIONS)
    assert whole.dims == ("band", "y", "x") and whole.shape == (1, 13, 19)
    again = surprise_map(generator_run, whole_scene(scene), **OPTIONS)
    np.testing.assert_allclose(again.values, whole.values, rtol=1e-4, atol=1e-4)


def whole_scene(path):
    import rioxarray

    return rioxarray.open_rasterio(path)


def test_a_model_in_training_mode_gives_the_same_map(scene, generator_run):
    expected = surprise_map(generator_run, scene, **OPTIONS)
    generator = load_model(generator_run)
    generator.network.drop.p, generator.network.condition.drop_rate = 0.5, 0.9
    found = surprise_map(generator.train(), scene, **OPTIONS)
    np.testing.assert_array_equal(found, expected)
    assert generator.training and not generator.codec.training
    with torch.no_grad():
        generator.network.heads[0].weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="not finite"):
        surprise_map(generator, scene, **OPTIONS)


def test_what_cannot_be_mapped_is_refused(scene, generator_run, codec_run, tmp_path):
    for model, arguments, word in (
        (codec_run, (scene, tmp_path / "map.tif"), "no probabilities of codes"),
        (generator_run, (scene, tmp_path / "map.png"), "GeoTIFF"),
        (generator_run, (scene, tmp_path / "map.tif", 0), "batch_size"),
    ):
        options = dict(zip(("input", "output", "batch_size"), arguments, strict=False))
        with pytest.raises(ConfigError, match=word):
            surprise_map(model, **options, **OPTIONS)
    with pytest.raises(DataError):
        surprise_map(generator_run, tmp_path / "none.tif", tmp_path / "map.tif", **OPTIONS)
    assert not list(tmp_path.iterdir())
