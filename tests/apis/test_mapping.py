"""Scenes through a model: against the model itself, window by window."""

import geopandas
import numpy as np
import pytest
import rasterio
import torch

from hook.apis import load_model, map_scene
from hook.apis.mapping import WindowPredictor, default_window
from hook.drawing import distinct_palette
from hook.errors import ConfigError, DataError, SceneError
from hook.evaluation.prediction_writer import colour_table


def test_a_scene_without_overlap_is_the_models_answer_per_window(seg_run, scenes, tmp_path):
    model = load_model(*seg_run)
    scene = scenes / "images" / "first.tif"
    out, vectors = tmp_path / "map.tif", tmp_path / "map.gpkg"
    report = map_scene(model, None, scene, out, overlap=0, vectors=vectors, progress=False)
    with rasterio.open(scene) as source, rasterio.open(out) as result:
        image = source.read([2, 1]).astype(np.float32)
        valid = source.dataset_mask() > 0
        found = result.read(1)
        assert (result.crs, result.transform, result.shape) == (
            source.crs,
            source.transform,
            source.shape,
        )
        assert np.array_equal(found == result.nodata, ~valid)
        assert result.colormap(1)[2] == (200, 0, 0, 255)
    assert report.pixels == valid.sum()
    units = np.where(valid, image * np.float32(0.01), np.float32(1.3))
    inputs = (torch.from_numpy(units[None, :, :32, :32]) - 1.3) / 0.7
    meta = dict(ori_shape=(32, 32), img_shape=(32, 32), pad_shape=(32, 32))
    with torch.no_grad():
        scores = np.sort(model.inference(inputs, [meta]).softmax(1)[0].numpy(), axis=0)
        classes = model.inference(inputs, [meta])[0].argmax(0).numpy()
    clear = (scores[-1] - scores[-2] > 1e-4) & valid[:32, :32]
    assert clear.mean() > 0.8
    assert np.array_equal(found[:32, :32][clear], classes[clear])
    polygons = geopandas.read_file(vectors)
    assert polygons.area.sum() == pytest.approx(valid.sum() * 4)  # 2 m pixels
    assert set(polygons["class_name"]) <= {"water", "field", "town"}


def test_a_map_without_colours_of_its_own_has_those_of_every_picture(seg_run, scenes, tmp_path):
    model = load_model(*seg_run)
    model.dataset_meta = {k: v for k, v in model.dataset_meta.items() if k != "palette"}
    out = tmp_path / "map.tif"
    map_scene(model, None, scenes / "images" / "first.tif", out, overlap=0, progress=False)
    with rasterio.open(out) as result:
        found = [list(result.colormap(1)[k][:3]) for k in range(3)]
    assert found == distinct_palette(3)
    assert found == [list(colour_table("abc")[k][:3]) for k in range(3)]


def test_predictor_gives_probabilities_in_evaluation_mode(seg_run):
    model = load_model(*seg_run)
    assert default_window(model) == 32
    predict = WindowPredictor(model)
    windows = np.full((2, 2, 32, 32), 130, np.uint16)
    valid = np.ones((2, 32, 32), bool)
    scores = predict(windows, valid)
    assert scores.shape == (2, 3, 32, 32)
    assert scores.dtype == np.float32
    assert np.allclose(scores.sum(1), 1, atol=1e-5)
    # What is under an invalid pixel does not matter.
    valid[:, :8] = False
    windows_of_trash = windows.copy()
    windows_of_trash[:, :, :8] = 65535
    assert np.array_equal(predict(windows, valid), predict(windows_of_trash, valid))
    model.train()
    with pytest.raises(ConfigError, match="training mode"):
        WindowPredictor(model)


def test_tta_makes_the_map_follow_a_turn_of_the_scene(seg_run):
    predict = WindowPredictor(load_model(*seg_run), tta="d4")
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 300, (1, 2, 32, 32)).astype(np.uint16)
    valid = np.ones((1, 32, 32), bool)
    turned = predict(np.rot90(windows, axes=(2, 3)).copy(), valid)
    assert np.allclose(np.rot90(predict(windows, valid), axes=(2, 3)), turned, atol=1e-5)


def test_bands_by_index(seg_run, scenes, tmp_path):
    model = load_model(*seg_run)
    scene = scenes / "images" / "third.tif"
    maps = {}
    for name, bidx in (("named", None), ("same", [2, 1]), ("swapped", [1, 2])):
        map_scene(model, None, scene, tmp_path / f"{name}.tif", bidx=bidx, progress=False)
        maps[name] = rasterio.open(tmp_path / f"{name}.tif").read(1)
    assert np.array_equal(maps["named"], maps["same"])
    with pytest.raises(DataError, match="another number of bands"):
        map_scene(model, None, scene, tmp_path / "x.tif", bidx=[1], progress=False)


def test_bad_input(cls_run, seg_run, scenes, tmp_path):
    scene = scenes / "images" / "first.tif"
    with pytest.raises(ConfigError, match="one class to a whole image"):
        map_scene(*cls_run, scene, tmp_path / "x.tif")
    model = load_model(*seg_run)
    with pytest.raises(DataError, match="none.tif cannot be opened"):
        map_scene(model, None, scenes / "none.tif", tmp_path / "x.tif")
    with pytest.raises(DataError, match="masks"):
        map_scene(model, None, scenes / "masks" / "first.tif", tmp_path / "x.tif")
    (tmp_path / "old.tif").write_text("")
    with pytest.raises(SceneError, match="old.tif"):
        map_scene(model, None, scene, tmp_path / "old.tif", progress=False)
    (tmp_path / "old.gpkg").write_text("")
    with pytest.raises(ConfigError, match="old.gpkg exists"):
        map_scene(model, None, scene, tmp_path / "x.tif", vectors=tmp_path / "old.gpkg")
    # What cannot be written is refused before the scene is mapped.
    with pytest.raises(ConfigError, match="unknown vector format"):
        map_scene(model, None, scene, tmp_path / "x.tif", vectors=tmp_path / "x.shp")
    with pytest.raises(ConfigError, match="no/x.gpkg cannot be written"):
        map_scene(model, None, scene, tmp_path / "x.tif", vectors=tmp_path / "no" / "x.gpkg")
    with pytest.raises(ConfigError, match="windows of 3 x 3 pixels do not fit the model"):
        map_scene(model, None, scene, tmp_path / "x.tif", window=3, overlap=0, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.gpkg", "old.tif"]
