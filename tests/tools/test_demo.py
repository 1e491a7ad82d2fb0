import importlib.util
import json
import subprocess
import sys

import geopandas
import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from PIL import Image

from hook.engine.fitting import class_weights
from hook.evaluation.baselines import (
    MajorityClass,
    NearestCentroid,
    segmentation_scores,
)
from hook.evaluation.confusion import confusion_matrix

TINY = [
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=1",
    "train_dataloader.batch_size=2",
    *(f"{part}_dataloader.dataset.chip_size=32" for part in ("train", "val", "test")),
    "model.data_preprocessor.size=(32,32)",
    "model.backbone.tokenizer.img_size=32",
    "model.backbone.tokenizer.seed_dims=16",
    "model.backbone.tokenizer.num_tokens=4",
]


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(repo):
    return load(repo / "tools" / "demo.py", "hook_demo")


@pytest.fixture(scope="module")
def generator(repo):
    return load(repo / "data" / "make_demo_scene.py", "make_demo_scene")


def test_config_fits_the_scene_it_is_made_for(demo, generator, repo, tmp_path):
    scene = generator.make_demo_scene(tmp_path)
    cfg = Config.fromfile(repo / "configs" / "hook" / "demo_hook.py")
    assert cfg.metainfo.classes == generator.CLASSES
    assert [tuple(c) for c in cfg.metainfo.palette] == list(generator.PALETTE)
    assert tuple(cfg.metainfo.bands) == generator.BANDS
    with rasterio.open(scene.image) as src:
        image, bounds, chip = src.read() * cfg.metainfo.scale, src.bounds, cfg.img_size
    with rasterio.open(scene.mask) as src:
        truth = src.read(1)
    west, south, _, north = bounds
    start = west
    majority, centroid = MajorityClass(5), NearestCentroid(5, 4)
    for part in ("train", "val", "test"):
        left, bottom, right, top = cfg[f"{part}_area"]
        # The parts are adjacent, a multiple of chips wide, and contain every class.
        assert (left, bottom, top) == (start, south, north) and (right - left) % chip == 0
        columns = slice(int(left - west), int(right - west))
        assert set(np.unique(truth[:, columns])) - {255} == {0, 1, 2, 3, 4}
        start = right
        if part == "train":
            majority.partial_fit(truth[:, columns])
            centroid.partial_fit(image[:, :, columns], truth[:, columns])
    assert start == bounds.right
    np.testing.assert_allclose(cfg.metainfo.mean, centroid.mean, atol=1e-4)
    np.testing.assert_allclose(cfg.metainfo.std, centroid.scale, atol=1e-4)
    weights = cfg.model.decode_head.loss_decode.class_weight
    np.testing.assert_allclose(weights, class_weights(majority.counts), atol=0.01)
    # Colour is informative in this scene, but not sufficient.
    confusion = confusion_matrix(truth[:, columns], centroid.predict(image[:, :, columns]), 5)
    assert 35 < segmentation_scores(confusion)["mIoU"] < 65


def test_patch_embed_config_differs_in_tokenizer_and_region_loss_alone(repo):
    hook = Config.fromfile(repo / "configs" / "hook" / "demo_hook.py")
    patch = Config.fromfile(repo / "configs" / "patch_embed" / "demo_patch_embed.py")
    tokenizer = patch.model.backbone.pop("tokenizer")
    assert patch.model.pop("region_loss") is None
    assert hook.model.pop("region_loss").type == "hook.RegionLoss"
    assert tokenizer.type == "hook.PatchEmbedTokenizer" and tokenizer.with_pos_embed
    assert tokenizer.img_size == hook.model.backbone.pop("tokenizer").img_size
    assert patch.to_dict() == hook.to_dict()


def test_user_folder_from_images_to_overview(generator, repo, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    scene = generator.make_demo_scene(data, size=(64, 96), seed=1, resolution=5.0)
    command = [sys.executable, str(repo / "tools" / "demo.py"), "--data", str(data)]
    command += ["--work-dir", str(out)]
    run = subprocess.run(
        [*command, "--cfg-options", *TINY], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert "nearest centroid, per pixel" in run.stdout and "majority class" in run.stdout
    # Two iterations learn nothing, which is a warning with --data.
    assert "warning: mIoU" in run.stdout

    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["classes"] == list(generator.CLASSES) and metrics["passed"] is False
    counted = {name: np.sum(metrics[name]["confusion_matrix"]) for name in ("model",)}
    with rasterio.open(scene.image) as src, rasterio.open(out / "map.tif") as mapped:
        assert (mapped.crs, mapped.transform, mapped.shape) == (src.crs, src.transform, src.shape)
        labels, empty = mapped.read(1), (src.read() == 0).all(0)
        area = abs(src.transform.a * src.transform.e)
    with rasterio.open(scene.mask) as src:
        truth = src.read(1)
    assert np.array_equal(labels == 255, empty)
    # A single image: the last 30 % of its columns are the test part.
    columns = (np.arange(96) + 0.5) / 96 >= 0.70
    assert counted["model"] == (truth[:, columns] != 255).sum()
    regions = geopandas.read_file(out / "regions.gpkg")
    assert regions.area.sum() == pytest.approx((~empty).sum() * area)
    assert regions.union_all().area == pytest.approx(regions.area.sum())
    tokens = geopandas.read_file(out / "tokens.gpkg")
    assert tokens.area.sum() == pytest.approx((~empty).sum() * area)
    assert set(tokens.geom_type) <= {"Polygon", "MultiPolygon"} and tokens.token_id.is_unique
    with Image.open(out / "overview.png") as picture:
        assert min(picture.size) > 800
    assert (out / "checkpoint.pth").is_file() and (out / "config.py").is_file()
    assert not list(out.glob(".*"))


def test_strict_turns_a_missed_bar_into_a_failure(demo):
    missed = ["mIoU 2.0 is below the nearest-centroid classifier (46.4)"]
    status, lines = demo.verdict([], required=True)
    assert status == 0 and lines[0].startswith("passed: 20 points above")
    assert demo.verdict(missed, required=True) == (1, [f"failed: {missed[0]}"])
    assert demo.verdict(missed, required=False) == (0, [f"warning: {missed[0]}"])
