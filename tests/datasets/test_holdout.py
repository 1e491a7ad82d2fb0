import numpy as np
import pytest
import rasterio

from hook.datasets.holdout import split_folder
from hook.datasets.inspection import inspect_folder


def checkerboard(*values, size=(32, 40)):
    return np.resize(np.array(values), size)


def inspect(root):
    found = inspect_folder(root)
    split_folder(found, root)
    return found


def test_images_are_divided_by_place(labelled):
    # Named against their order on the ground.
    names = ["d", "c", "b", "a", "f", "e", "h", "g"]
    found = inspect(labelled([checkerboard(0, 1)] * 8, names))
    parts = {k: v["split"] for k, v in found.splits.items()}
    assert parts == {
        "train": [f"{n}.tif" for n in names[:5]],
        "val": ["e.tif"],
        "test": ["h.tif", "g.tif"],
    }


def test_a_single_image_is_divided_by_area_without_overlap(labelled):
    root = labelled([checkerboard(0, 1, size=(32, 100))])
    found = inspect(root)
    boxes = [found.splits[part]["split"]["bounds"] for part in ("train", "val", "test")]
    with rasterio.open(root / "images" / "tile_0.tif") as src:
        left, bottom, right, top = src.bounds
    assert boxes[0][0] == left and boxes[2][2] == pytest.approx(right)
    assert boxes[0][2] == boxes[1][0] and boxes[1][2] == boxes[2][0]
    assert all((b[1], b[3]) == (bottom, top) for b in boxes)


def test_two_images_keep_the_smaller_one_for_the_test(labelled):
    root = labelled([checkerboard(0, 1), checkerboard(0, 1, size=(64, 64))])
    found = inspect(root)
    assert found.splits["test"] == dict(images=[str(root / "images" / "tile_0.tif")], split=None)
    for part in ("train", "val"):
        assert found.splits[part]["images"] == [str(root / "images" / "tile_1.tif")]
