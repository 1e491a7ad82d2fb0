import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

SCRIPT = "tools/dataset_tools/compute_statistics.py"


@pytest.fixture
def scenes(tmp_path):
    """Two scenes that no chip size divides, with nodata -1; returns the valid pixels (C, N)."""
    rng = np.random.default_rng(0)
    pixels = []
    for number, size in enumerate([(37, 50), (20, 11)]):
        image = rng.normal([[[5000]], [[-20]], [[100]]], [[[900]], [[3]], [[0.01]]], (3, *size))
        image = image.astype(np.float32)
        image[1, rng.random(size) < 0.3] = -1
        path = tmp_path / f"images/s{number}.tif"
        path.parent.mkdir(exist_ok=True)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=3,
            height=size[0],
            width=size[1],
            dtype="float32",
            nodata=-1,
            crs="EPSG:32633",
            transform=from_origin(500000 + 1000 * number, 5200000, 10, 10),
        ) as dst:
            dst.write(image)
        pixels.append(image[:, image[1] != -1])
    total = 37 * 50 + 20 * 11
    return np.concatenate(pixels, axis=1).astype(np.float64), total


def write_config(tmp_path, dataset):
    path = tmp_path / "config.py"
    path.write_text(
        f"default_scope = 'mmseg'\ntrain_dataloader = dict(batch_size=2, dataset={dataset})\n"
    )
    return path


def run(repo, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def folder_dataset(tmp_path, **options):
    return dict(
        type="hook.GeoTIFFFolder",
        images="images",
        data_root=str(tmp_path),
        chip_size=16,
        metainfo=dict(bands=(3, 1, 2), scale=[1, 1e-4, 1], offset=2.0, mean=[9.0, 9.0, 9.0]),
        pipeline=[dict(type="hook.ScaleBands"), dict(type="hook.PackSegSample")],
        **options,
    )


def test_statistics_are_those_of_numpy(repo, tmp_path, scenes):
    pixels, total = scenes
    dataset = dict(type="RepeatDataset", times=3, dataset=folder_dataset(tmp_path))
    out = tmp_path / "out/statistics.json"
    done = run(repo, write_config(tmp_path, dataset), "--out", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    expected = pixels[[2, 0, 1]] * [[1], [1e-4], [1]] + 2
    for key, value in (
        ("mean", expected.mean(axis=1)),
        ("std", expected.std(axis=1)),
        ("min", expected.min(axis=1)),
        ("max", expected.max(axis=1)),
    ):
        np.testing.assert_allclose(result[key], value, rtol=2e-4 if key == "std" else 1e-6)
    assert result["bands"] == [3, 1, 2]
    assert result["pixels"] == total and result["valid_pixels"] == pixels.shape[1]
    assert result["valid_share"] == pytest.approx(pixels.shape[1] / total)
    # The printed lines are ready for a config.
    lines = done.stdout[done.stdout.index("mean=") :]
    metainfo = {}
    for line in lines.split("\n")[:2]:
        name, value = line.rstrip(",").split("=")
        metainfo[name] = json.loads(value)
    np.testing.assert_allclose(metainfo["mean"], result["mean"], rtol=1e-5)
    np.testing.assert_allclose(metainfo["std"], result["std"], rtol=1e-5)
    assert not list(out.parent.glob(".*"))


def test_the_standard_library_is_not_hidden_from_sibling_scripts(repo):
    code = (
        f"import sys; sys.path.insert(0, {str(repo / 'tools/dataset_tools')!r})\n"
        "import statistics; print(statistics.mean([1, 2, 6]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nowhere.py"], "nowhere.py does not exist"),
        (["{config}", "--split", "val"], "has no val_dataloader"),
        (["{config}", "--cfg-options", "train_dataloader.dataset.imagez=x"], "imagez"),
        (["{config}", "--cfg-options", "train_dataloader.dataset.type=hook.Nope"], "hook.Nope"),
        (["{config}", "--out", "{config}/x.json"], "is a file"),
    ],
)
def test_bad_input_is_named(repo, tmp_path, scenes, arguments, part):
    config = write_config(tmp_path, folder_dataset(tmp_path))
    done = run(repo, *(argument.format(config=config) for argument in arguments))
    assert done.returncode == 1
    assert part in done.stderr and "remedy" in done.stderr and "Traceback" not in done.stderr


def test_data_without_a_valid_pixel(tmp_path, scenes):
    from hook.datasets import GeoTIFFFolder
    from hook.datasets.statistics import compute_statistics
    from hook.errors import DataError

    dataset = GeoTIFFFolder("images", None, tmp_path, {"nodata": "nan", "bands": (1,)})
    for path in (tmp_path / "images").glob("*.tif"):
        with rasterio.open(path, "r+") as dst:
            dst.write(np.full(dst.shape, np.nan, np.float32), 1)
    with pytest.raises(DataError, match="no valid pixel"):
        compute_statistics([dataset], quiet=True)
