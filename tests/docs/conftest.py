"""A folder to run the commands of the documentation in, with a small untrained demo."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio import features
from rasterio.transform import from_origin
from shapely.geometry import shape

from hook import registry

# 192 x 192 m of the demo scene around the location of the searches.
LEFT, TOP = 688_600, 5_338_800
BANDS = ("blue", "green", "red", "nir")


@pytest.fixture(scope="session")
def demo(repo, tiny, tmp_path_factory) -> Path:
    """The demo's config, a checkpoint of it, a scene, its masks and truth, under their names."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "configs").symlink_to(repo / "configs")
    for name in ("data/demo/images", "data/demo/masks", "work_dirs/demo"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    truth = np.add.outer(np.arange(192), np.arange(192)) // 32 % 5
    grid = {
        "driver": "GTiff",
        "height": 192,
        "width": 192,
        "crs": "EPSG:32632",
        "transform": from_origin(LEFT, TOP, 1, 1),
    }
    scene = folder / "data/demo/images/scene.tif"
    with rasterio.open(scene, "w", count=4, dtype="uint16", nodata=0, **grid) as sink:
        image = 400 + 300 * truth + rng.integers(0, 300, (4, 192, 192))
        sink.write(image.astype(np.uint16))
        sink.descriptions = BANDS
    with rasterio.open(
        folder / "data/demo/masks/scene.tif", "w", count=1, dtype="uint8", nodata=255, **grid
    ) as sink:
        sink.write(truth.astype(np.uint8), 1)
    config = folder / "configs/hook/demo_hook.py"
    checkpoint = tiny.write_checkpoint(config, folder / "work_dirs/demo/checkpoint.pth")
    _write_truth(config, checkpoint, scene, folder / "data/demo/truth.gpkg")
    _write_own(folder, scene, truth.astype(np.uint8), grid)
    return folder


def _write_own(folder: Path, scene: Path, truth: np.ndarray, grid: dict) -> None:
    """Write the files that the pages call your own images and polygons."""
    (folder / "scene.tif").symlink_to(scene)
    (folder / "images").mkdir()
    (folder / "images/scene.tif").symlink_to(scene)
    names = ("field", "forest", "water", "road", "building")
    polygons = [
        {"class": names[int(value)], "geometry": shape(outline)}
        for outline, value in features.shapes(truth, transform=grid["transform"])
    ]
    geopandas.GeoDataFrame(polygons, crs=grid["crs"]).to_file(folder / "land_use.gpkg")
    rng = np.random.default_rng(1)
    for name, size, metres in (("sentinel2", 64, 10), ("aerial", 256, 0.15)):
        place = {"height": size, "width": size, "transform": from_origin(LEFT, TOP, metres, metres)}
        with rasterio.open(
            folder / f"{name}.tif", "w", **grid | place, count=3, dtype="uint8", photometric="rgb"
        ) as sink:
            sink.write(rng.integers(40, 200, (3, size, size)).astype(np.uint8))


def _write_truth(config: Path, checkpoint: Path, scene: Path, path: Path) -> None:
    """Write squares of three classes, each inside a different region."""
    from hook.apis import RegionExtractor

    regions = path.with_name("regions.parquet")
    RegionExtractor(config, checkpoint).extract(scene, regions, progress=False)
    table = geopandas.read_parquet(regions).nlargest(9, "pixels").reset_index(drop=True)
    assert len(table) == 9, "the model without training gives fewer regions than labels"
    squares = table.representative_point().buffer(0.2, cap_style="square")
    names = [("field", "forest", "water")[k % 3] for k in range(len(table))]
    truth = geopandas.GeoDataFrame({"class": names, "area_m2": 0.16}, geometry=squares)
    truth.to_file(path)
    regions.unlink()


@pytest.fixture
def copy_of_demo(demo, tmp_path, monkeypatch) -> Path:
    """Work in a copy of that folder and unregister the classes registered there."""
    folder = tmp_path / "work"
    shutil.copytree(demo, folder, symlinks=True)
    monkeypatch.chdir(folder)
    for name in ("DATASETS", "TOKENIZERS"):
        known = getattr(registry, name)
        known.import_from_location()
        monkeypatch.setattr(known, "_module_dict", dict(known.module_dict))
    return folder


class Scripts:
    """Runs ``tools/*.sh`` with programs that record their arguments."""

    def __init__(self, repo: Path, folder: Path) -> None:
        self.repo, self.folder = repo, folder
        for name in ("srun", "interpreter"):
            path = folder / name
            path.write_text(
                f"#!{sys.executable}\n"
                "import json, os, sys\n"
                "with open(os.environ['NOTES'], 'w') as file:\n"
                "    json.dump([sys.argv, os.environ['PYTHONPATH']], file)\n"
            )
            path.chmod(0o755)

    def run(self, words: list[str], **variables: str) -> tuple[list[str], str]:
        """Run a script; return the arguments of the program it runs, and PYTHONPATH."""
        notes = self.folder / "notes.json"
        notes.unlink(missing_ok=True)
        environment = os.environ | {
            "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": str(self.folder / "interpreter"),
            "NOTES": str(notes),
            **variables,
        }
        done = subprocess.run(
            words, cwd=self.repo, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return tuple(json.loads(notes.read_text()))


@pytest.fixture
def scripts(repo, tmp_path) -> Scripts:
    """The repository's shell scripts."""
    return Scripts(repo, tmp_path)
