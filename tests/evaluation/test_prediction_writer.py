"""Masks as files: scenes from chips, single chips, PNG; names; nothing half-written."""

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.crs import CRS

from hook.errors import DataError, SceneError
from hook.evaluation.prediction_writer import PredictionWriter, class_map_file

META = {"classes": ("field", "forest", "town"), "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
WKT = CRS.from_epsg(32633).to_wkt()
SCENE = rasterio.Affine(10, 0, 600000, 0, -10, 5000000)


def _chip(row, col, size, source="/data/scene.tif", whole=(50, 70)):
    return {
        "crs": WKT,
        "transform": tuple(SCENE * rasterio.Affine.translation(col, row))[:6],
        "width": size,
        "height": size,
        "source": source,
        "window": (row, col, size, size),
        "scene_transform": tuple(SCENE)[:6],
        "scene_shape": whole,
    }


def test_chips_become_their_scene(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (50, 70)).astype(np.uint8)
    valid = np.ones((50, 70), np.uint8)
    valid[:10, :20] = 0
    writer = PredictionWriter(tmp_path, META)
    padded, padded_valid = np.zeros((64, 96), np.uint8), np.zeros((64, 96), np.uint8)
    padded[:50, :70], padded_valid[:50, :70] = truth, valid
    parts = []
    for row in (0, 32):
        for col in (0, 32, 64):
            rows, cols = slice(row, row + 32), slice(col, col + 32)
            mask = {"data": torch.from_numpy(padded_valid[rows, cols])[None]}
            sample = {"img_path": "x", "geo": _chip(row, col, 32), "valid_mask": mask}
            parts.append(writer.keep(sample, padded[rows, cols]))
    assert writer.finish(parts[::-1]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]
    with rasterio.open(tmp_path / "scene.tif") as result:
        assert result.transform == SCENE
        assert result.crs == CRS.from_epsg(32633)
        assert result.nodata == 255
        assert result.colormap(1)[2] == (7, 8, 9, 255)
        assert result.tags()["classes"] == "field,forest,town"
        found = result.read(1)
    assert np.array_equal(found, np.where(valid, truth, 255))


def test_a_part_of_a_scene_leaves_the_rest_nodata(tmp_path):
    writer = PredictionWriter(tmp_path, META)
    geo = _chip(300, 400, 32, whole=(600, 700))
    writer.finish([writer.keep({"img_path": "x", "geo": geo}, np.ones((32, 32), int))])
    with rasterio.open(tmp_path / "scene.tif") as result:
        found = result.read(1)
    assert found.shape == (600, 700)
    assert (found[300:332, 400:432] == 1).all()
    assert (found == 255).sum() == 600 * 700 - 32 * 32


def test_without_a_scene_grid_the_windows_give_it(tmp_path):
    writer = PredictionWriter(tmp_path, META)
    parts = []
    for col in (0, 32):
        geo = _chip(0, col, 32)
        del geo["scene_transform"], geo["scene_shape"]
        parts.append(writer.keep({"img_path": "x", "geo": geo}, np.full((32, 32), col // 32)))
    writer.finish(parts)
    with rasterio.open(tmp_path / "scene.tif") as result:
        assert result.shape == (32, 64)
        assert result.transform == SCENE
        assert result.read(1)[0, [0, 40]].tolist() == [0, 1]


def test_single_georeferenced_images_and_names_that_clash(tmp_path):
    writer = PredictionWriter(tmp_path, META)
    geo = _chip(0, 0, 32, source=None)
    parts = [
        writer.keep({"img_path": f"/{folder}/tile.tif", "geo": geo}, np.full((32, 32), value))
        for value, folder in enumerate(("a", "b"))
    ]
    assert writer.finish(parts) == 2
    for value, name in enumerate(("tile.tif", "b_tile.tif")):
        with rasterio.open(tmp_path / name) as result:
            assert (result.read(1) == value).all()
            assert result.transform == SCENE


def test_other_images_become_png(tmp_path):
    writer = PredictionWriter(tmp_path, META)
    writer.finish([writer.keep({"img_path": "photo.jpg"}, np.array([[0, 1], [2, 2]]))])
    image = Image.open(tmp_path / "photo.png")
    assert np.asarray(image).tolist() == [[0, 1], [2, 2]]
    assert np.asarray(image.convert("RGB"))[0, 1].tolist() == [4, 5, 6]


def test_a_file_that_fails_does_not_appear(tmp_path):
    target = tmp_path / "map.tif"
    with (
        pytest.raises(RuntimeError),
        class_map_file(target, WKT, SCENE, 10, 10, META["classes"]) as sink,
    ):
        sink.write(np.zeros((10, 10), np.uint8), 1)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_many_classes_take_more_bits(tmp_path):
    classes = tuple(f"c{i}" for i in range(300))
    writer = PredictionWriter(tmp_path, {"classes": classes})
    geo = _chip(0, 0, 16, source=None)
    writer.finish([writer.keep({"img_path": "t.tif", "geo": geo}, np.full((16, 16), 299))])
    with rasterio.open(tmp_path / "t.tif") as result:
        assert result.nodata == 65535
        assert (result.read(1) == 299).all()


def test_a_test_that_is_broken_off_leaves_nothing(tmp_path):
    writer = PredictionWriter(tmp_path / "out", {"classes": ("a", "b")})
    part = writer.keep({"img_path": "x"}, np.zeros((4, 4), int))
    assert Path(part.file).is_file()
    del writer
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("which", ["img_path", "seg_map_path", "source"])
def test_images_and_labels_are_not_replaced_by_predictions(tmp_path, which):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / folder / "a.png")
    sample = {"img_path": tmp_path / "images" / "a.png", "seg_map_path": tmp_path / "masks/a.png"}
    folder = tmp_path / "images"
    if which == "source":
        sample = {"img_path": "chip", "geo": _chip(0, 0, 4, str(folder / "a.tif"), (4, 4))}
        (folder / "a.tif").write_bytes(b"scene")
    elif which == "seg_map_path":
        folder = tmp_path / "masks"
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    with pytest.raises(DataError, match=r"a\.(png|tif): is an input"):
        PredictionWriter(folder, META).keep(sample, np.zeros((4, 4), np.uint8))
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*")} == before
    # Of two images of one name in several folders, one may be in the folder of the results.
    writer = PredictionWriter(folder, META)
    other = writer.keep({"img_path": str(tmp_path / "b" / "a.png")}, np.zeros((4, 4), np.uint8))
    if which == "img_path":
        with pytest.raises(DataError, match="is an input"):
            writer.finish([other, replace(other, img_path=str(sample["img_path"]))])
        assert {path: path.read_bytes() for path in tmp_path.glob("*/*")} == before


@pytest.mark.parametrize("kind", ["scene", "picture"])
def test_masks_of_an_earlier_test_are_replaced_and_files_of_others_kept(tmp_path, kind):
    name = "a.tif" if kind == "scene" else "a.png"
    sample = {"img_path": "x/a.jpg"}
    if kind == "scene":
        sample["geo"] = _chip(0, 0, 4, "x/a.tif", (4, 4))

    def write(value):
        writer = PredictionWriter(tmp_path, META)
        writer.finish([writer.keep(sample, np.full((4, 4), value, np.uint8))])
        return np.asarray(Image.open(tmp_path / name))

    assert (write(0) == 0).all() and (write(1) == 1).all()
    Image.new("L", (4, 4), 2).save(tmp_path / name)
    (tmp_path / f"{name}.msk").write_text("mine")
    before = (tmp_path / name).read_bytes()
    with pytest.warns(UserWarning, match=f"{name}: kept, because HOOK did not write it"):
        write(0)
    assert (tmp_path / name).read_bytes() == before and (tmp_path / f"{name}.msk").exists()


def test_masks_of_pictures_are_put_together(tmp_path):
    truth = np.random.default_rng(0).integers(0, 3, (5, 7)).astype(np.uint8)
    padded = np.pad(truth, ((0, 3), (0, 1)))
    writer = PredictionWriter(tmp_path, META)
    parts = []
    for row in (0, 4):
        for col in (0, 4):
            geo = _chip(row, col, 4, "x/a.jpg", (5, 7)) | {"crs": None}
            chip = padded[row : row + 4, col : col + 4]
            parts.append(writer.keep({"img_path": "x/a.jpg", "geo": geo}, chip))
    assert writer.finish(parts) == 1
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), truth)


def test_predictions_have_no_side_files_of_earlier_ones(tmp_path):
    (tmp_path / "a.tif.msk").write_text("old")
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><PAMRasterBand/></PAMDataset>")
    with class_map_file(tmp_path / "a.tif", WKT, SCENE, 4, 4, META["classes"]) as sink:
        sink.write(np.ones((4, 4), np.uint8), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("size", [100, 1500, 9000])
def test_a_full_disk_leaves_no_mask(tmp_path, size):
    mask = np.random.default_rng(0).integers(0, 3, (300, 300)).astype(np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with (
            pytest.raises(SceneError, match=r"a\.tif: cannot be written"),
            class_map_file(tmp_path / "a.tif", WKT, SCENE, 300, 300, META["classes"]) as sink,
        ):
            sink.write(mask, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
