"""The models that come with the package, on real images that they have not been trained on."""

import zipfile

import numpy as np
import pytest
import rasterio

from hook.apis import Classifier, SceneMapper, decode, embed_chip, encode, load_model

EUROSAT, BUILDINGS = "hook-fast-tiny_eurosat", "hook-fast-tiny_banepa-buildings"
CODEC, PRETRAINED = "hook-vq-tiny_rgb", "hook-objects-small_rgb"


def eurosat_test_images(shared_data, repo, tmp_path, every):
    """Return paths and classes of some of the test images."""
    listed = repo / "configs" / "_base_" / "splits" / "eurosat" / "eurosat_rgb_15k_test.txt"
    names = []
    for line in listed.read_text().splitlines():
        label, numbers = line.split(":")
        names += [f"{label}/{label}_{number}.jpg" for number in numbers.split()[::every]]
    archive = shared_data / "classification" / "eurosat_rgb_15k.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with zipfile.ZipFile(archive) as packed:
        paths = [packed.extract(f"eurosat_rgb_15k/{name}", tmp_path) for name in names]
    return paths, np.array([name.split("/")[0] for name in names])


def test_eurosat_images_get_their_classes(shared_data, repo, tmp_path):
    paths, classes = eurosat_test_images(shared_data, repo, tmp_path, every=60)
    table = Classifier(EUROSAT).predict(paths)
    right = table["class"].to_numpy() == classes
    assert len(right) == 50 and np.mean(right) > 0.85  # 94 % of all 3,000
    assert np.allclose(table.filter(like="score_").sum(axis=1), 1, atol=1e-4)


def test_embeddings_learned_without_labels_tell_classes_apart(shared_data, repo, tmp_path):
    """The nearest other image has the same class more often than by the colours of bands."""
    paths, classes = eurosat_test_images(shared_data, repo, tmp_path, every=20)
    model = load_model(PRETRAINED)
    images = []
    for path in paths:
        with rasterio.open(path) as source:
            images.append(source.read())
    learned = [embed_chip(model, image) for image in images]
    colours = [np.concatenate([image.mean((1, 2)), image.std((1, 2))]) for image in images]

    def agreement(vectors):
        vectors = np.stack(vectors)
        vectors = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
        distances = np.square(vectors[:, None] - vectors).sum(axis=-1)
        np.fill_diagonal(distances, np.inf)
        return np.mean(classes[distances.argmin(axis=1)] == classes)

    assert len(paths) == 150
    assert agreement(learned) > agreement(colours) + 0.05 > 0.4


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
