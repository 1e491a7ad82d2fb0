import logging
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import torch
from mmengine.config import Config
from PIL import Image
from rasterio.transform import from_origin

from hook.apis import SceneMapper, TrainingResult, load_model, train, training
from hook.checkpoint import load_checkpoint
from hook.datasets.holdout import hold_out
from hook.datasets.inspection import inspect_files
from hook.engine import fitting
from hook.engine.configs import find_config, load_config
from hook.engine.models import use_default_scope
from hook.engine.training import prepare_work_dir
from hook.errors import CheckpointError, ConfigError, DataError
from hook.zoo.listing import find_model

# A model and a run that fit into seconds.
TINY = {
    "train_dataloader.dataset.length": 8,
    "model.backbone.embed_dims": 32,
    "model.backbone.depth": 2,
    "model.backbone.num_heads": 2,
    "model.backbone.out_indices": (0, 0, 1, 1),
    "model.backbone.tokenizer.seed_dims": 32,
    "model.neck.in_channels": 32,
    "model.neck.seed_channels": 32,
    "model.neck.out_channels": (16, 16, 16, 16),
    "model.decode_head.in_channels": [16, 16, 16, 16],
    "model.decode_head.channels": 16,
    "custom_hooks": [dict(type="hook.DatasetCheckHook")],
    "optim_wrapper.optimizer.lr": 3e-3,
}
SMALL = dict(
    base="hook-fast-skip_vit-192x6_banepa-256",
    chip_size=32,
    num_tokens=4,
    batch_size=4,
    progress=False,
    cfg_options=TINY,
)
SIZE, RES = 96, 2.0
CRS = "EPSG:32633"


def write(path, values, nodata=None, row=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    grid = dict(crs=CRS, transform=from_origin(5e5, 4e6 - row * height * RES, RES, RES))
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype,
        nodata=nodata, **(grid | options),
    ) as sink:  # fmt: skip
        sink.write(values)
    return path


def make_scene(seed=0):
    """Two-band image of bright squares on dark ground, its mask, and the squares as polygons."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    squares = []
    for row in range(8, SIZE - 8, 22):
        for col in range(6, SIZE - 8, 20):
            mask[row : row + 11, col : col + 11] = 1
            x, y = 5e5 + col * RES, 4e6 - row * RES
            squares.append(shapely.box(x, y - 11 * RES, x + 11 * RES, y))
    image = 300 + 900 * mask.astype(int) + rng.integers(0, 100, (2, SIZE, SIZE))
    kinds = ["shed" if k % 2 else "house" for k in range(len(squares))]
    table = geopandas.GeoDataFrame(dict(kind=kinds), geometry=squares, crs=CRS)
    return image.astype(np.uint16), mask, table


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    image, mask, table = make_scene()
    write(folder / "scene.tif", image)
    write(folder / "mask.tif", mask[None])
    table.to_file(folder / "squares.gpkg")
    return folder


@pytest.fixture(scope="module")
def trained(scene, tmp_path_factory):
    """A training on one scene and a table of polygons."""
    out = tmp_path_factory.mktemp("trained")
    table = geopandas.read_file(scene / "squares.gpkg").to_crs("EPSG:4326")
    return train(scene / "scene.tif", table, out / "run", epochs=6, **SMALL)


def test_a_scene_and_polygons_become_a_model(trained, scene):
    assert isinstance(trained, TrainingResult)
    # The squares are four times as bright as the ground.
    assert trained.metrics["IoU.object"] > 60 and trained.metrics["mIoU"] > 60
    assert trained.log.read_text().count("Epoch(train)")
    model = load_model((trained.config, trained.checkpoint))
    assert model.dataset_meta["classes"] == ("background", "object")
    with rasterio.open(scene / "scene.tif") as src:
        west = src.read()[:, :, : round(0.8 * SIZE)].reshape(2, -1).astype(float)
    # Statistics of what was trained on, and of nothing else.
    np.testing.assert_allclose(model.dataset_meta["mean"], west.mean(1), rtol=1e-4)
    np.testing.assert_allclose(model.dataset_meta["std"], west.std(1), rtol=1e-4)


def test_the_config_stands_on_its_own(trained):
    cfg = Config.fromfile(trained.config)
    assert "_base_" not in trained.config.read_text()
    assert cfg.train_cfg.max_epochs == 6 and cfg.model.backbone.tokenizer.in_channels == 2
    assert "data_root" not in cfg and "metainfo" not in cfg  # nothing of the base's own data
    # What only RGB pictures bear is gone; turning and mirroring stays.
    transforms = cfg.train_dataloader.dataset.pipeline[0].transforms
    assert [t.type for t in transforms] == ["D4"]
    ends = [s.end for s in cfg.param_scheduler]
    assert ends[-1] == 6 and cfg.param_scheduler[-1].T_max == 5


def test_curves_have_a_row_per_epoch(trained):
    curves = trained.curves
    assert isinstance(curves, pd.DataFrame) and list(curves.index) == [1, 2, 3, 4, 5, 6]
    assert curves.loss.iloc[-1] < curves.loss.iloc[0]
    assert curves.mIoU.iloc[-1] == trained.metrics["mIoU"]


def test_the_map_of_the_model_covers_the_scene(trained, scene, tmp_path):
    SceneMapper((trained.config, trained.checkpoint)).map(
        scene / "scene.tif", tmp_path / "map.tif", progress=False
    )
    with rasterio.open(tmp_path / "map.tif") as mapped, rasterio.open(scene / "mask.tif") as truth:
        assert (mapped.read(1) == truth.read(1)).mean() > 0.85


def test_resumed_after_the_last_epoch_nothing_changes(trained, scene, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.work_dir, run)
    cfg = run / "config.py"
    cfg.write_text(cfg.read_text().replace(str(trained.work_dir), str(run)))
    labels = geopandas.read_file(scene / "squares.gpkg").to_crs("EPSG:4326")
    with pytest.raises(ConfigError, match="already contains a training run"):
        train(scene / "scene.tif", labels, run, epochs=6, **SMALL)
    again = train(scene / "scene.tif", labels, run, epochs=6, resume=True, **SMALL)
    assert again.metrics == trained.metrics
    with pytest.raises(ConfigError, match="different settings") as caught:
        train(scene / "scene.tif", labels, run, epochs=7, resume=True, **SMALL)
    assert "train_cfg" in str(caught.value) and "overwrite=True" in str(caught.value)


def test_warnings_reach_the_terminal_again_after_a_training(trained):
    from mmengine.logging import MMLogger

    handlers = [h for h in MMLogger.get_current_instance().handlers]
    streams = [h for h in handlers if type(h) is logging.StreamHandler]
    assert streams and all(h.level <= logging.WARNING for h in streams)


# ---------------------------------------------------------------------------------- labels
def test_classes_of_an_attribute(scene):
    found = inspect_files(scene / "scene.tif", scene / "squares.gpkg", label="kind")
    assert found.classes == ["house", "shed"] and found.bands == [1, 2]
    assert found.options["background"] == "ignore"
    assert found.options["label_map"] == {"house": 0, "shed": 1}
    found = inspect_files(
        scene / "scene.tif",
        scene / "squares.gpkg",
        label="kind",
        classes={"shed": "hut"},
        palette={"hut": "#ff0080"},
    )
    # One class needs another beside it; what was not named is not learned.
    assert found.classes == ["background", "hut"] and found.palette[1] == [255, 0, 128]
    assert found.options["label_map"] == {"shed": 1, "house": "ignore"}
    assert found.options["background"] == 0


def test_every_head_has_the_classes_of_the_labels(scene, tmp_path):
    found = inspect_files(
        scene / "scene.tif", scene / "squares.gpkg", label="kind", background="ground"
    )
    hold_out(found, 0.25, None, tmp_path)
    found.splits["test"] = found.splits["val"]
    cfg = load_config(find_config("hook-objects_vit-192x2_banepa-256"))
    fitting.fit_data(cfg, found)
    heads = cfg.model.decode_head, cfg.model.auxiliary_head
    assert [head.num_classes for head in heads] == [3, 3]


def test_values_and_colours_of_a_raster(scene, tmp_path):
    mask = make_scene()[1] * np.uint8(10) + np.uint8(10)
    path = write(tmp_path / "cover.tif", mask[None], nodata=10)
    with rasterio.open(path, "r+") as dst:
        dst.write_colormap(1, {20: (1, 2, 3)})
    found = inspect_files(
        scene / "scene.tif", path, classes={20: "built"}, background="open", palette=None
    )
    assert found.classes == ["open", "built"] and found.palette[1] == [1, 2, 3]
    assert found.options["label_map"] == {20: 1, 10: 0} and found.options["mask_nodata"] is None


def test_one_scene_is_held_out_by_area_and_several_by_file(scene, tmp_path):
    found = inspect_files(scene / "scene.tif", scene / "mask.tif")
    hold_out(found, 0.25, None, tmp_path)
    (left, _, cut, _), (start, _, right, _) = (
        found.splits[part]["split"]["bounds"] for part in ("train", "val")
    )
    assert cut == start and right - start == pytest.approx(0.25 * (right - left))
    images = [
        write(tmp_path / f"{name}.tif", make_scene()[0], row=row) for row, name in enumerate("cabd")
    ]
    found = inspect_files(images, scene / "squares.gpkg")
    hold_out(found, 0.25, None, tmp_path)
    assert [p[-5:] for p in found.splits["val"]["images"]] == ["c.tif"]  # the northern end
    hold_out(found, 0.25, ["a", "b.tif"], tmp_path)
    assert len(found.splits["train"]["images"]) == 2


def test_sparse_polygons_are_divided_by_their_area(scene, tmp_path):
    found = inspect_files(scene / "scene.tif", scene / "squares.gpkg", label="kind")
    hold_out(found, 0.3, None, tmp_path)
    table = geopandas.read_file(scene / "squares.gpkg")
    _, south, _, north = found.splits["val"]["split"]["bounds"]
    west, _, east, _ = found.splits["val"]["split"]["bounds"]
    held = table.clip((west, south, east, north)).area.sum() / table.area.sum()
    assert 0.15 < held < 0.4


def test_an_area_of_the_users_own_is_held_out(scene, tmp_path):
    found = inspect_files(scene / "scene.tif", scene / "mask.tif")
    box = (5e5 + 50, 4e6 - 100, 5e5 + 100, 4e6 - 50)
    hold_out(found, 0.2, dict(bounds=box, crs=CRS), tmp_path)
    parts = geopandas.read_file(found.splits["val"]["split"]["file"]).set_index("split")
    assert parts.geometry["val"].area == pytest.approx(2500)
    assert parts.geometry["train"].area == pytest.approx((SIZE * RES) ** 2 - 2500)
    with pytest.raises(ConfigError, match="is outside the images"):
        hold_out(found, 0.2, dict(bounds=(0, 0, 1, 1), crs=CRS), tmp_path)


# ---------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(images="nowhere"), DataError, "nowhere does not exist"),
        (dict(label="sort"), ConfigError, "no attribute 'sort'"),
        (dict(classes=("a", "b"), label="kind"), ConfigError, "does not name the values"),
        (dict(val_fraction=0), ConfigError, "val_fraction=0"),
        (dict(epochs=0), ConfigError, "epochs=0"),
        (dict(base="nothing"), ConfigError, "config nothing does not exist"),
        (dict(base="demo_hook"), ConfigError, "base demo_hook cannot be adapted"),
        (dict(palette=["#fff", "#000"]), ConfigError, "is not a colour"),
        (dict(device="cuda:77"), ConfigError, "device cuda:77"),
        (dict(pretrained="none.pth"), CheckpointError, "none.pth does not exist"),
        (dict(pretrained="nobody"), ConfigError, "there is no model 'nobody'"),
        (dict(cfg_options={"model.backbone.tokenizer.size_of_it": 3}), ConfigError, "size_of_it"),
        (dict(resume=True, overwrite=True), ConfigError, "exclude each other"),
        (dict(val=["scene"]), ConfigError, "holds out every image"),
    ],
)
def test_bad_arguments(scene, tmp_path, change, error, message):
    arguments = dict(images=scene / "scene.tif", labels=scene / "squares.gpkg", epochs=1) | SMALL
    with pytest.raises(error, match=message) as caught:
        train(work_dir=tmp_path / "run", **(arguments | change))
    assert "remedy" in str(caught.value)
    # Nothing that a second attempt would stumble over.
    assert not {"checkpoint.pth", "config.py"} & {p.name for p in (tmp_path / "run").glob("*")}


@pytest.mark.parametrize("which", ["arrays/labels.gpkg", "best_mIoU.pth", "config.py"])
def test_a_run_replaces_none_of_its_inputs_nor_files_of_others(tmp_path, which):
    (tmp_path / "arrays").mkdir()
    own = {"labels.gpkg", "mine.pth"}  # the user's
    for name in ("config.py", "arrays/labels.gpkg", "best_mIoU.pth", *own):
        (tmp_path / name).write_text(name)
    with pytest.raises(ConfigError, match=f"{which}: is an input"):
        prepare_work_dir(tmp_path, overwrite=True, inputs=["absent", tmp_path / which])
    assert len(list(tmp_path.rglob("*.*"))) == 5
    prepare_work_dir(tmp_path, overwrite=True, inputs=["absent"])
    assert {path.name for path in tmp_path.rglob("*.*")} == own
    (tmp_path / "arrays/labels.gpkg").touch()
    prepare_work_dir(tmp_path, inputs=[tmp_path / "arrays/labels.gpkg"])  # a new run
    (tmp_path / "checkpoint.pth").touch()
    with pytest.raises(ConfigError, match=r"already contains.*\n.*\n.*checkpoint\.pth"):
        prepare_work_dir(tmp_path)
    (tmp_path / "checkpoint.pth").rename(tmp_path / "epoch_3.pth")  # of tools/train.py
    with pytest.raises(ConfigError, match=r"already contains.*\n.*\n.*epoch_3\.pth"):
        prepare_work_dir(tmp_path)


def test_a_table_replaces_no_file_of_the_users_own(tmp_path):
    (tmp_path / "labels.gpkg").write_text("mine")
    path = training._write_labels(make_scene()[2], tmp_path)
    assert len(geopandas.read_file(path)) == len(make_scene()[2])
    assert (tmp_path / "labels.gpkg").read_text() == "mine"


def test_a_large_scene_is_measured_on_a_part_of_its_chips(scene, tmp_path, monkeypatch):
    cfg = load_config(find_config(training.DEFAULT_BASE))
    use_default_scope(cfg)
    found = inspect_files(scene / "scene.tif", scene / "mask.tif")
    hold_out(found, 0.2, None, tmp_path)
    found.splits["test"] = found.splits["val"]
    fitting.fit_sizes(cfg, 4, 16, 2)
    fitting.fit_data(cfg, found)
    whole, _, counts = fitting.measure(cfg, found.how, False)
    monkeypatch.setattr(fitting, "_MOST_CHIPS", 8)
    part, _, fewer = fitting.measure(cfg, found.how, False)
    assert counts.sum() == SIZE * round(0.8 * SIZE) and fewer.sum() < counts.sum() / 2
    np.testing.assert_allclose(part, whole, rtol=0.25)


def test_a_held_out_part_of_one_class_is_warned_of(scene, tmp_path):
    mask = make_scene()[1]
    mask[:, 70:], mask[80:] = 1, 255
    path = write(tmp_path / "mask.tif", mask[None], nodata=255)
    with pytest.warns(UserWarning, match="no pixel of .* in the val part"):
        result = train(scene / "scene.tif", path, tmp_path / "run", epochs=1, **SMALL)
    assert 0 <= result.metrics["mIoU"] <= 100


def test_labels_of_one_class_only(scene, tmp_path):
    blank = write(tmp_path / "mask.tif", np.full((1, SIZE, SIZE), 1, np.uint8))
    with pytest.raises(DataError, match="fewer than two classes") as caught:
        train(scene / "scene.tif", blank, tmp_path / "run", classes=["a", "b"], **SMALL)
    assert "val=" in str(caught.value)


def test_a_table_without_crs(scene, tmp_path):
    table = geopandas.read_file(scene / "squares.gpkg").set_crs(None, allow_override=True)
    with pytest.raises(DataError, match="is empty or has no CRS"):
        train(scene / "scene.tif", table, tmp_path / "run", **SMALL)


def test_a_pretrained_model_is_a_start(trained, scene, tmp_path):
    again = train(
        scene / "scene.tif",
        scene / "squares.gpkg",
        tmp_path / "run",
        pretrained=trained.checkpoint,
        epochs=1,
        **(SMALL | dict(cfg_options=TINY | {"optim_wrapper.optimizer.lr": 0.0})),
    )
    assert again.metrics["mIoU"] == pytest.approx(trained.metrics["mIoU"], abs=3)


def test_the_default_base_has_its_own_start_and_number_of_tokens(scene, tmp_path):
    run = train(
        scene / "scene.tif",
        scene / "squares.gpkg",
        tmp_path / "run",
        epochs=1,
        chip_size=64,
        progress=False,
        cfg_options={"train_dataloader.dataset.length": 8, "optim_wrapper.optimizer.lr": 0.0},
    )
    start, end = (
        load_checkpoint(path)["state_dict"]
        for path in (find_model("hook-objects-small_rgb"), run.checkpoint)
    )
    name = "backbone.tokenizer.perception.blocks.0.mlp.fc1.weight"
    assert torch.equal(start[name].float(), end[name])
    assert load_config(run.config).model.backbone.tokenizer.num_tokens == 4  # 64 at 256 px


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (dict(labels=None), ConfigError, "labels=None"),
        (dict(labels=3), ConfigError, "labels=3"),
        (dict(labels=np.zeros(8)), DataError, "an array is not an image"),
        (dict(images=None), ConfigError, "images=None"),
        (dict(images=np.zeros((3, 8, 8, 8))), DataError, "an array is not an image"),
        (dict(images=["scene.tif", 3]), ConfigError, "images=3"),
        (dict(work_dir=None), ConfigError, "work_dir=None"),
        (dict(base=3), ConfigError, "base=3"),
        (dict(pretrained=3), ConfigError, "pretrained=3"),
        (dict(cfg_options="x"), ConfigError, "cfg_options='x'"),
        (dict(classes=3), ConfigError, "classes=3"),
        (dict(epochs=True), ConfigError, "epochs=True"),
        (dict(val=3), ConfigError, "val=3"),
        (dict(device="cuda:77"), ConfigError, "device cuda:77"),
        (dict(device=[3]), ConfigError, "device"),
        (dict(seed="x"), ConfigError, "seed='x'"),
        (dict(seed=-1), ConfigError, "seed=-1"),
        (dict(seed=1.5), ConfigError, "seed=1.5"),
        (dict(val_fraction="x"), ConfigError, "val_fraction='x'"),
        (dict(val_fraction=None), ConfigError, "val_fraction=None"),
        (dict(chip_size="x"), ConfigError, "chip_size='x'"),
    ],
)
def test_arguments_of_the_wrong_type(scene, tmp_path, change, error, says):
    usual = dict(
        images=scene / "scene.tif", labels=scene / "squares.gpkg", work_dir=tmp_path / "run"
    )
    with pytest.raises(error, match=says):
        train(**(usual | dict(epochs=1) | SMALL | change))
    assert not list(tmp_path.iterdir())


def test_arrays_train_as_their_files_do(scene, tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    options = SMALL | dict(epochs=1)
    files = train(scene / "scene.tif", scene / "mask.tif", tmp_path / "files", **options)
    with (
        rioxarray.open_rasterio(scene / "scene.tif") as image,
        rioxarray.open_rasterio(scene / "mask.tif") as mask,
    ):
        arrays = train(image, mask, tmp_path / "arrays", **options)
        assert arrays.metrics == files.metrics
        with rasterio.open(tmp_path / "arrays/arrays/images/array_0.tif") as source:
            np.testing.assert_array_equal(source.read(), image)
            assert source.crs == image.rio.crs
        # Nobody's files of the folder are removed, nor the arrays that a training is given back.
        (tmp_path / "arrays/images").mkdir()
        (tmp_path / "arrays/images/array_0.tif").write_bytes(b"somebody's")
        squares = geopandas.read_file(scene / "squares.gpkg")
        parts = tmp_path / "arrays/arrays/images"
        train(parts, squares, tmp_path / "arrays", overwrite=True, **options)
        assert (tmp_path / "arrays/images/array_0.tif").is_file()
        with rioxarray.open_rasterio(parts / "array_0.tif") as read:
            for images in (read, [image, parts], [image, parts / "array_0.tif"]):
                with pytest.raises(ConfigError, match=r"array_0\.tif: is an input"):
                    train(images, squares, tmp_path / "arrays", overwrite=True, **options)
    with rioxarray.open_rasterio(scene / "mask.tif", masked=True) as mask:
        masked = train(scene / "scene.tif", mask, tmp_path / "masked", **options)
    assert masked.metrics == files.metrics


def test_rows_that_run_to_the_north(scene, tmp_path):
    with rasterio.open(scene / "scene.tif") as source:
        values, bounds = source.read(), source.bounds
    grid = rasterio.Affine(RES, 0, bounds.left, 0, RES, bounds.bottom)
    north = write(tmp_path / "north.tif", values[:, ::-1], transform=grid)
    found = train(north, scene / "squares.gpkg", tmp_path / "run", epochs=1, **SMALL)
    assert found.metrics["mIoU"] > 0


def test_chips_larger_than_an_array_are_refused(tmp_path):
    image, mask = np.zeros((2, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    with pytest.raises(ConfigError, match="chip_size=32 is too large"):
        train(image, mask, tmp_path / "run", **SMALL)
    assert not list(tmp_path.iterdir())


def test_arrays_without_a_place_are_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 9, (2, SIZE, SIZE)).astype(np.uint8)
    with pytest.raises(DataError, match="georeference"):
        train(image, image[0] % 2, tmp_path / "run", epochs=1, **SMALL)


def test_chips_larger_than_all_images(scene, tmp_path):
    options = SMALL | dict(chip_size=2 * SIZE + 1)
    with pytest.raises(ConfigError, match=rf"chip_size={2 * SIZE + 1}.*\n.*\n.*{SIZE} pixels"):
        train(scene / "scene.tif", scene / "mask.tif", tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())
    training.check_chip_size(2 * SIZE, [scene / "scene.tif"])


@pytest.mark.filterwarnings("error::UserWarning:hook", "error:.*geotransform")
def test_pictures_become_a_model(tmp_path):
    values, mask, _ = make_scene()
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        rows = slice(16 * number, 16 * number + 32)
        picture = np.stack([*values, values[0]])[:, rows]
        picture = (255 * picture / values.max()).astype(np.uint8)
        name = f"photo {number}"
        Image.fromarray(picture.transpose(1, 2, 0)).save(tmp_path / "images" / f"{name}.JPG")
        labels = Image.fromarray(mask[rows].astype(np.uint8))
        labels.putpalette([9, 9, 9, 200, 0, 0, *[0] * 762])
        labels.save(tmp_path / "masks" / f"{name}.png")
    result = train(tmp_path / "images", tmp_path / "masks", tmp_path / "run", epochs=1, **SMALL)
    cfg = Config.fromfile(result.config)
    assert "mIoU" in result.metrics and "GeoTIFFFolder:" not in result.log.read_text()
    assert cfg.train_dataloader.dataset.metainfo.palette == [[9, 9, 9], [200, 0, 0]]
    held = [Path(path).name for path in cfg.val_dataloader.dataset.images]
    assert held == ["photo 3.JPG"]
