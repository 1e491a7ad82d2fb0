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
from rasterio.transform import from_origin

from hook.apis.training import class_weights
from hook.errors import DataError
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
    "model.backbone.dense_size=8",
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


@pytest.fixture
def folder(tmp_path):
    """A function that writes images and masks side by side, from west to east."""

    def make(masks, names=None, dtype="uint8", colours=None, bands=None, nodata=None):
        rng = np.random.default_rng(0)
        for sub in ("images", "masks"):
            (tmp_path / sub).mkdir(exist_ok=True)
        for k, mask in enumerate(masks):
            name = names[k] if names else f"tile_{k}"
            height, width = mask.shape
            grid = dict(
                driver="GTiff",
                height=height,
                width=width,
                crs="EPSG:32632",
                transform=from_origin(5e5 + 1000 * k, 5e6, 2.0, 2.0),
            )
            with rasterio.open(
                tmp_path / "images" / f"{name}.tif", "w", count=3, dtype="uint8", **grid
            ) as dst:
                dst.write(rng.integers(1, 255, (3, height, width), dtype=np.uint8))
                if bands:
                    dst.descriptions = bands
            path = tmp_path / "masks" / f"{name}.tif"
            with rasterio.open(path, "w", count=1, dtype=dtype, nodata=nodata, **grid) as dst:
                dst.write(mask.astype(dtype), 1)
                if colours:
                    dst.write_colormap(1, colours)
        return tmp_path

    return make


def checkerboard(*values, size=(32, 40)):
    return np.resize(np.array(values), size)


def test_folder_with_class_names_and_lists_of_its_own(demo, folder):
    root = folder([checkerboard(0, 1, 2, 255)] * 4, bands=("red", "green", "blue"))
    (root / "classes.txt").write_text("bare soil #a08060\ngrass\nwater #0000ff\n")
    (root / "splits").mkdir()
    for part, name in (("train", "tile_3"), ("val", "tile_1"), ("test", "tile_0")):
        (root / "splits" / f"{part}.txt").write_text(f"{name}.tif\n")
    found = demo.inspect_folder(root)
    assert found.classes == ["bare soil", "grass", "water"]
    assert found.palette[0] == [160, 128, 96] and found.palette[2] == [0, 0, 255]
    assert found.palette[1] not in (found.palette[0], found.palette[2])
    assert found.bands == ["red", "green", "blue"]
    assert {k: v["split"] for k, v in found.splits.items()} == {
        part: str(root / "splits" / f"{part}.txt") for part in ("train", "val", "test")
    }


def test_names_of_values_and_colours_of_the_mask_where_nobody_named_them(demo, folder):
    root = folder([checkerboard(0, 1, 3)], colours={0: (1, 2, 3), 1: (4, 5, 6), 3: (7, 8, 9)})
    found = demo.inspect_folder(root)
    assert found.classes == ["class 0", "class 1", "class 3"]
    assert found.options == dict(label_map={0: 0, 1: 1, 3: 2})
    assert found.palette == [[1, 2, 3], [4, 5, 6], [7, 8, 9]] and found.bands == [1, 2, 3]


def test_binary_masks_with_255_for_the_object(demo, folder):
    found = demo.inspect_folder(folder([checkerboard(0, 255)]))
    assert found.classes == ["background", "object"]
    assert found.options == dict(label_map={0: 0, 255: 1}, mask_nodata=None)


def test_images_are_divided_by_place(demo, folder):
    # Named against their order on the ground.
    names = ["d", "c", "b", "a", "f", "e", "h", "g"]
    found = demo.inspect_folder(folder([checkerboard(0, 1)] * 8, names))
    parts = {k: v["split"] for k, v in found.splits.items()}
    assert parts == {
        "train": [f"{n}.tif" for n in names[:5]],
        "val": ["e.tif"],
        "test": ["h.tif", "g.tif"],
    }


def test_a_single_image_is_divided_by_area_without_overlap(demo, folder):
    root = folder([checkerboard(0, 1, size=(32, 100))])
    found = demo.inspect_folder(root)
    boxes = [found.splits[part]["split"]["bounds"] for part in ("train", "val", "test")]
    with rasterio.open(root / "images" / "tile_0.tif") as src:
        left, bottom, right, top = src.bounds
    assert boxes[0][0] == left and boxes[2][2] == pytest.approx(right)
    assert boxes[0][2] == boxes[1][0] and boxes[1][2] == boxes[2][0]
    assert all((b[1], b[3]) == (bottom, top) for b in boxes)


def test_two_images_keep_the_smaller_one_for_the_test(demo, folder):
    root = folder([checkerboard(0, 1), checkerboard(0, 1, size=(64, 64))])
    found = demo.inspect_folder(root)
    assert found.splits["test"] == dict(images=[str(root / "images" / "tile_0.tif")], split=None)
    for part in ("train", "val"):
        assert found.splits[part]["images"] == [str(root / "images" / "tile_1.tif")]


def test_vector_masks_are_two_classes(demo, folder):
    root = folder([checkerboard(0, 1)])
    (root / "masks" / "tile_0.tif").unlink()
    box = geopandas.GeoSeries.from_wkt(["POINT (500020 4999980)"], crs="EPSG:32632").buffer(15)
    box.to_file(root / "masks" / "houses.gpkg")
    assert demo.inspect_folder(root).classes == ["background", "object"]
    (root / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match="two classes"):
        demo.inspect_folder(root)


def test_class_names_may_come_with_their_index(demo, folder):
    root = folder([checkerboard(0, 1)])
    (root / "classes.txt").write_text("0 background\n1 building #ff0000\n")
    found = demo.inspect_folder(root)
    assert found.classes == ["background", "building"] and found.palette[1] == [255, 0, 0]


def test_images_that_only_their_mask_places(demo, folder):
    root = folder([checkerboard(0, 1, size=(32, 100))])
    path = root / "images" / "tile_0.tif"
    with rasterio.open(path) as src:
        image, place = src.read(), (src.crs, src.transform, src.bounds)
    path.unlink()
    with rasterio.open(
        path, "w", driver="GTiff", height=32, width=100, count=3, dtype="uint8"
    ) as d:
        d.write(image)
    assert demo.inspect_folder(root).splits["train"]["split"]["bounds"][0] == place[2].left
    cfg = Config.fromfile(demo.REPO / "configs" / "hook" / "demo_hook.py")
    demo.fit_config_to_data(cfg, demo.inspect_folder(root))
    scene = demo.cover_of(cfg, "test").scenes[0]
    with rasterio.open(demo.georeferenced(scene, root)) as src:
        assert (src.crs, src.transform) == place[:2]
        assert np.array_equal(src.read(), image)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda r: (r / "masks").rename(r / "labels"), "masks does not exist"),
        (lambda r: [p.unlink() for p in (r / "images").iterdir()], "no file that can be used"),
        (lambda r: (r / "images" / "tile_0.tif").write_bytes(b"II*\0"), "cannot be read"),
        (lambda r: (r / "masks" / "tile_0.tif").write_text("no raster"), "cannot be read"),
        (lambda r: (r / "classes.txt").write_text("only one\n"), "does not name the classes"),
        (lambda r: (r / "classes.txt").write_text("a\nb\n"), "label outside the range"),
        (lambda r: (r / "classes.txt").write_bytes(b"\xff\xfe\xfa"), "is not text"),
        (
            lambda r: (
                (r / "splits").mkdir(),
                (r / "splits" / "train.txt").write_text("tile_0"),
            ),
            "is not complete",
        ),
    ],
)
def test_bad_folders_end_with_a_clear_error(demo, folder, prepare, message, capsys):
    root = folder([checkerboard(0, 1, 2)])
    prepare(root)
    with pytest.raises(DataError, match=message):
        demo.inspect_folder(root)
    with pytest.raises(SystemExit) as exit_info:
        demo.main(["--data", str(root), "--work-dir", str(root / "out")])
    assert exit_info.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "expected:" in error and "Traceback" not in error
    assert not (root / "out").exists()


def test_masks_that_are_no_class_indexes(demo, folder):
    with pytest.raises(DataError, match="no class indexes"):
        demo.inspect_folder(folder([np.arange(1280).reshape(32, 40) % 200]))
    with pytest.raises(DataError, match="is no mask"):
        demo.inspect_folder(folder([checkerboard(0, 1)], dtype="float32"))


def test_truncated_mask(demo, folder):
    root = folder([np.random.default_rng(0).integers(0, 3, (300, 300))])
    path = root / "masks" / "tile_0.tif"
    path.write_bytes(path.read_bytes()[:-40_000])
    with pytest.raises(DataError, match="cut off or damaged|cannot be read"):
        demo.inspect_folder(root)


def test_class_weights():
    counts = np.array([900, 100, 0])
    weights = class_weights(counts)
    assert weights[1] / weights[0] == pytest.approx(3, rel=1e-3)
    assert (counts * weights).sum() / counts.sum() == pytest.approx(1, rel=1e-3)
    assert weights[2] == 1
    assert max(class_weights(np.array([10**9, 1]))) == 10


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
        # The parts lie side by side, whole chips wide, and each shows every class.
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
    # Colour alone says something about this scene, but is far from enough.
    confusion = confusion_matrix(truth[:, columns], centroid.predict(image[:, :, columns]), 5)
    assert 35 < segmentation_scores(confusion)["mIoU"] < 65


def test_patch_embed_config_differs_in_the_tokenizer_alone(repo):
    hook = Config.fromfile(repo / "configs" / "hook" / "demo_hook.py")
    patch = Config.fromfile(repo / "configs" / "patch_embed" / "demo_patch_embed.py")
    tokenizer = patch.model.backbone.pop("tokenizer")
    assert patch.model.backbone.pop("dense_size") is None
    assert tokenizer.type == "hook.PatchEmbedTokenizer" and tokenizer.with_pos_embed
    assert tokenizer.img_size == hook.model.backbone.pop("tokenizer").img_size
    hook.model.backbone.pop("dense_size")
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
    # Two iterations learn nothing: on a user's folder that is a warning.
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
