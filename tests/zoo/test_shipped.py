"""The models that come with the package, on real images that they have not been trained on."""

import zipfile

import numpy as np
import pytest
import rasterio

from hook.apis import Classifier, SceneMapper, decode, encode

EUROSAT, BUILDINGS = "hook-fast-tiny_eurosat", "hook-fast-tiny_banepa-buildings"
CODEC = "hook-vq-tiny_rgb"


def test_eurosat_images_get_their_classes(shared_data, repo, tmp_path):
    listed = repo / "configs" / "_base_" / "splits" / "eurosat" / "eurosat_rgb_15k_test.txt"
    names = []
    for line in listed.read_text().splitlines():
        label, numbers = line.split(":")
        names += [f"{label}/{label}_{number}.jpg" for number in numbers.split()[::60]]
    archive = shared_data / "classification" / "eurosat_rgb_15k.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with zipfile.ZipFile(archive) as packed:
        paths = [packed.extract(f"eurosat_rgb_15k/{name}", tmp_path) for name in names]
    table = Classifier(EUROSAT).predict(paths)
    right = [name.split("/")[0] == found for name, found in zip(names, table["class"], strict=True)]
    assert len(right) == 50 and np.mean(right) > 0.85  # 94 % of all 3,000
    assert np.allclose(table.filter(like="score_").sum(axis=1), 1, atol=1e-4)


def test_buildings_of_a_test_chip_are_found(shared_data, repo, tmp_path):
    folder = shared_data / "segmentation" / "banepa_buildings"
    names = (repo / "configs" / "_base_" / "splits" / "banepa" / "test.txt").read_text().split()
    mapper = SceneMapper(BUILDINGS)
    both = either = 0
    for name in names[:2]:
        stem = name.split(".")[0]
        (image,) = (folder / "images").glob(f"{stem}.*")
        (mask,) = (folder / "masks").glob(f"{stem}.*")
        mapper.map(image, tmp_path / "map.tif", overwrite=True, progress=False)
        with rasterio.open(tmp_path / "map.tif") as found, rasterio.open(mask) as truth:
            mine, true = found.read(1) == 1, truth.read(1) == 1
        both, either = both + (mine & true).sum(), either + (mine | true).sum()
    assert both / either > 0.45  # 0.62 over all 8 chips


def test_a_test_chip_comes_back_from_its_codes(shared_data, repo, tmp_path):
    names = (repo / "configs" / "_base_" / "splits" / "banepa" / "test.txt").read_text().split()
    stem = names[0].split(".")[0]
    (image,) = (shared_data / "segmentation" / "banepa_buildings" / "images").glob(f"{stem}.*")
    encode(CODEC, image, tmp_path / "codes.tif", progress=False)
    decode(tmp_path / "codes.tif", tmp_path / "decoded.tif", progress=False)
    with rasterio.open(image) as one, rasterio.open(tmp_path / "decoded.tif") as other:
        error = one.read().astype(float) - other.read()
        assert np.sqrt(np.square(error).mean()) < 0.55 * one.read().std()
