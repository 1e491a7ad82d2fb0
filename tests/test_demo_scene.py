import hashlib
import importlib.util
import sys

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

from hook.errors import ConfigError

SIZE, RESOLUTION = (96, 144), 4.0


@pytest.fixture(scope="module")
def generator(repo):
    spec = importlib.util.spec_from_file_location(
        "make_demo_scene", repo / "data" / "make_demo_scene.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scene(generator, tmp_path_factory):
    out = tmp_path_factory.mktemp("scene")
    return generator.make_demo_scene(out, size=SIZE, seed=3, resolution=RESOLUTION)


def test_image_is_a_georeferenced_four_band_scene(scene):
    with rasterio.open(scene.image) as src:
        assert (src.count, src.height, src.width) == (4, *SIZE)
        assert src.dtypes == ("uint16",) * 4
        assert src.descriptions == ("blue", "green", "red", "nir")
        assert src.crs.is_projected and src.crs.to_epsg() == 32632
        assert src.res == (RESOLUTION, RESOLUTION)
        assert src.nodata == 0
        assert src.profile["tiled"] and src.compression.name == "deflate"
        image = src.read()
    corner = image[:, -1, -1]
    assert (corner == 0).all()
    empty = (image == 0).all(0)
    # All bands are empty together, in one corner and nowhere else.
    assert np.array_equal(empty, (image == 0).any(0))
    assert 0.01 < empty.mean() < 0.15
    assert not empty[: SIZE[0] // 4].any() and not empty[:, : SIZE[1] // 2].any()


def test_truth_has_all_classes_in_each_part_and_the_images_nodata(scene):
    with rasterio.open(scene.image) as src:
        grid, empty = (src.crs, src.transform, src.shape), (src.read() == 0).all(0)
    with rasterio.open(scene.mask) as src:
        assert (src.crs, src.transform, src.shape) == grid
        assert src.nodata == 255 and src.dtypes == ("uint8",)
        assert src.colormap(1)[2] == (58, 118, 190, 255)
        truth = src.read(1)
    assert np.array_equal(truth == 255, empty)
    for part in np.array_split(truth, 2, axis=1):
        assert set(np.unique(part)) - {255} == {0, 1, 2, 3, 4}


def test_vectors_cover_the_scene_once_and_give_the_same_raster(scene):
    vectors = geopandas.read_file(scene.vectors, layer="landcover")
    with rasterio.open(scene.mask) as src:
        truth, transform, crs = src.read(1), src.transform, src.crs
    assert vectors.crs == crs
    assert set(vectors["class"]) == {"field", "forest", "water", "road", "building"}
    assert vectors.geometry.is_valid.all()
    drawn = rasterize(
        zip(vectors.geometry, vectors["class_id"], strict=True), truth.shape, transform=transform
    )
    seen = truth != 255
    assert np.array_equal(drawn[seen], truth[seen])
    # Areas that add up to their union do not overlap, but for slivers of the millimetre grid.
    union = vectors.geometry.union_all().area
    assert vectors.geometry.area.sum() == pytest.approx(union, rel=2e-5)
    assert union == pytest.approx(seen.sum() * RESOLUTION**2, rel=0.02)


def test_same_seed_same_bytes_other_seed_other_scene(generator, scene, tmp_path):
    def digest(result):
        files = (result.image, result.mask, result.vectors, result.classes)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]

    again = generator.make_demo_scene(tmp_path / "a", SIZE, seed=3, resolution=RESOLUTION)
    other = generator.make_demo_scene(tmp_path / "b", SIZE, seed=4, resolution=RESOLUTION)
    assert digest(again) == digest(scene)
    assert all(a != b for a, b in zip(digest(other)[:3], digest(scene)[:3], strict=True))


def test_spectra_look_like_reflectance(scene):
    with rasterio.open(scene.image) as src:
        image = src.read().astype(float)
    with rasterio.open(scene.mask) as src:
        truth = src.read(1)
    red, nir = image[2], image[3]
    ndvi = (nir - red) / np.maximum(nir + red, 1)
    median = [np.median(ndvi[truth == k]) for k in range(5)]
    # Water is dark in the near infrared; forest is the greenest, roads and roofs hardly green.
    assert median[2] < 0.1 < median[0] < median[1]
    assert median[3] < 0.5 and median[4] < 0.5
    assert np.median(nir[truth == 2]) < 0.4 * np.median(nir[truth == 1])
    assert 300 < np.median(image[:, truth != 255]) < 5000


def test_too_small_a_scene_is_refused_and_nothing_is_written(generator, tmp_path, capsys):
    with pytest.raises(ConfigError, match="too small"):
        generator.make_demo_scene(tmp_path / "x", size=(32, 32))
    with pytest.raises(SystemExit) as exit_info:
        generator.main([str(tmp_path / "x"), "--size", "32", "32"])
    assert exit_info.value.code == 1
    assert "expected: at least 48 pixels" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_command_line_names_the_files(generator, tmp_path, capsys):
    out = tmp_path / "demo"
    assert generator.main([str(out), "--size", "64", "80", "--resolution", "5"]) == 0
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(str(p) for p in out.rglob("*") if p.is_file())
    names = [line.split()[0] for line in (out / "classes.txt").read_text().splitlines()]
    assert names == list(generator.CLASSES)
