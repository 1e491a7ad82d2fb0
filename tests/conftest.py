"""Shared fixtures: real imagery, tiny data with configs and checkpoints, few threads."""

import importlib.util
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

REPO = Path(__file__).resolve().parents[1]
if "PYTEST_XDIST_WORKER" not in os.environ:  # several processes take a thread each, by the Makefile
    torch.set_num_threads(max(1, min(2, os.cpu_count() or 1)))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPO


def _shared() -> Path:
    return Path(os.environ.get("HOOK_SHARED", REPO.parent / "shared")).resolve()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real imagery; the test skips where it is absent."""
    folder = _shared() / "data"
    if not folder.is_dir():
        pytest.skip(f"no real imagery at {folder}; set HOOK_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with numbers of the official implementation; the test skips where absent."""
    folder = _shared() / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}; set HOOK_SHARED to the folder with golden/")
    return folder


@pytest.fixture(scope="session")
def tiny():
    """The generator module ``tests/data/tiny_runs.py``."""
    name = "tiny_runs"  # as the configs it writes import it
    if name not in sys.modules:
        path = REPO / "tests" / "data" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def cls_run(tiny, tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a tiny classifier."""
    folder = tmp_path_factory.mktemp("cls")
    config = tiny.write_cls_config(folder / "tiny_cls.py")
    return config, tiny.write_checkpoint(config, folder / "cls.pth")


@pytest.fixture(scope="session")
def scenes(tiny, tmp_path_factory) -> Path:
    """A folder with three scenes and their masks."""
    return tiny.write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def seg_run(tiny, scenes, tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a tiny segmentation of these scenes."""
    folder = tmp_path_factory.mktemp("seg")
    config = tiny.write_seg_config(folder / "tiny_seg.py", scenes)
    return config, tiny.write_checkpoint(config, folder / "seg.pth")


@pytest.fixture(scope="session")
def codec_run(tiny, scenes, tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a tiny autoencoder of red and nir, whose codes are all in use."""
    from hook.apis import load_model

    folder = tmp_path_factory.mktemp("codec")
    config = tiny.write_codec_config(folder / "tiny_codec.py", scenes)
    checkpoint = tiny.write_checkpoint(config, folder / "codec.pth")
    model = load_model((config, checkpoint))
    noise = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = model.encoder(noise)[0, :, 4:12, 4:12].flatten(1).T[::4]
        model.quantizer.codebook.weight.copy_(latents)
    meta = dict(dataset_meta=model.dataset_meta)
    torch.save({"state_dict": model.state_dict(), "meta": meta}, checkpoint)
    return config, checkpoint


@pytest.fixture(scope="session")
def generator_run(tiny, codec_run, tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a random generator of tiles of 8 x 8 of its codes, by map."""
    return tiny.write_generator_run(*codec_run, tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="session")
def load_tool(repo):
    """Import a tool as a module, for tests of its functions and of ``main`` in this process."""

    def load(path: str):
        name = "tool_" + Path(path).stem
        folder = str((repo / "tools" / path).parent)
        if folder not in sys.path:  # as if it were run
            sys.path.append(folder)
        spec = importlib.util.spec_from_file_location(name, repo / "tools" / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def publish(load_tool):
    """Publish a checkpoint without testing it, as a file in a folder."""
    tool = load_tool("misc/publish_model.py")

    def run(run_of_config, folder: Path, name: str, *options: str) -> Path:
        config, checkpoint = run_of_config
        arguments = [str(checkpoint), str(folder / name), "--format", "safetensors", "--half"]
        arguments += ["--config", str(config), "--no-test", "--licence", "CC0", *options]
        return tool.publish_model(tool.parse_args(arguments))

    return run


@pytest.fixture(scope="session")
def seg_model(publish, seg_run, tmp_path_factory) -> Path:
    """A published segmentation of the tiny scenes."""
    return publish(seg_run, tmp_path_factory.mktemp("published"), "tiny-seg")


@pytest.fixture(scope="session")
def cls_model(publish, cls_run, tmp_path_factory) -> Path:
    """A published classifier."""
    return publish(cls_run, tmp_path_factory.mktemp("published"), "tiny-cls")


@pytest.fixture(scope="session")
def codec_model(publish, codec_run, tmp_path_factory) -> Path:
    """A published autoencoder."""
    return publish(codec_run, tmp_path_factory.mktemp("published"), "tiny-codec")


@pytest.fixture
def listing(tmp_path, monkeypatch):
    """A list of models in a folder of its own: a function that fills it."""
    from hook.zoo import listing

    folder = tmp_path / "zoo"
    folder.mkdir()
    monkeypatch.setattr(listing, "FOLDER", folder)
    monkeypatch.setattr(listing, "LISTING", folder / "models.json")
    monkeypatch.setenv("HOOK_HOME", str(tmp_path / "home"))

    def fill(*entries: dict) -> Path:
        (folder / "models.json").write_text(json.dumps({"models": list(entries)}))
        listing._read_listing.cache_clear()
        return folder

    yield fill
    listing._read_listing.cache_clear()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def write_raster(path, array, crs="EPSG:32633", transform=None, nodata=None, names=None, **profile):
    """Write a (C, H, W) or (H, W) array as GeoTIFF and return its path as text."""
    array = np.asarray(array)
    array = array[None] if array.ndim == 2 else array
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if transform is None:
        transform = from_origin(500000, 5200000, 10, 10)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=array.shape[0],
        height=array.shape[1],
        width=array.shape[2],
        dtype=array.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
        **profile,
    ) as dst:
        dst.write(array)
        for index, name in enumerate(names or (), start=1):
            dst.set_band_description(index, name)
    return str(path)


def random_image(rng, shape, dtype="uint16"):
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -9000), min(info.max, 9000), shape, dtype=dtype)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(name="write_raster")
def write_raster_fixture():
    return write_raster


@pytest.fixture(name="random_image")
def random_image_fixture():
    return random_image


@pytest.fixture
def write_scene(tmp_path):
    """A function that writes an array (C, H, W) as a GeoTIFF and returns its path."""

    def write(values: np.ndarray, name: str = "scene.tif", **options) -> Path:
        count, height, width = values.shape
        profile = {
            "driver": "GTiff",
            "count": count,
            "height": height,
            "width": width,
            "dtype": values.dtype,
            "crs": "EPSG:32645",
            "transform": from_origin(300000, 3000000, 0.5, 0.5),
        }
        with rasterio.open(tmp_path / name, "w", **{**profile, **options}) as target:
            target.write(values)
        return tmp_path / name

    return write
