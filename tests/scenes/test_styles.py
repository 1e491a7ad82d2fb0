from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio.shutil

from hook.errors import SceneError
from hook.scenes.styles import (
    check_classes,
    default_palette,
    read_category_names,
    write_category_names,
    write_qml,
)

NAMES = ["field & meadow", "<water>", "Gebäude"]


def test_gdal_reads_the_category_names(write_scene, tmp_path):
    path = write_scene(np.ones((1, 4, 4), np.uint8))
    write_category_names(tmp_path / "scene.tif.aux.xml", NAMES)
    # GDAL's own VRT driver writes what GDAL has read.
    rasterio.shutil.copy(path, tmp_path / "copy.vrt", driver="VRT")
    categories = ElementTree.parse(tmp_path / "copy.vrt").findall(".//CategoryNames/Category")
    assert [category.text for category in categories] == NAMES
    assert read_category_names(path) == NAMES


def test_no_side_file_and_a_broken_one(tmp_path):
    assert read_category_names(tmp_path / "a.tif") is None
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    assert read_category_names(tmp_path / "a.tif") is None
    (tmp_path / "a.tif.aux.xml").write_text("<PAMData")
    with pytest.raises(SceneError, match=r"a\.tif\.aux\.xml"):
        read_category_names(tmp_path / "a.tif")


def test_qml_names_and_colours(tmp_path):
    write_qml(tmp_path / "map.qml", NAMES, [(255, 0, 0), (0, 16, 0), (1, 2, 3)])
    root = ElementTree.parse(tmp_path / "map.qml").getroot()
    renderer = root.find("./pipe/rasterrenderer")
    assert renderer.get("type") == "paletted" and renderer.get("band") == "1"
    entries = [
        (entry.get("value"), entry.get("label"), entry.get("color"))
        for entry in renderer.findall("./colorPalette/paletteEntry")
    ]
    assert entries == list(zip("012", NAMES, ["#ff0000", "#001000", "#010203"], strict=True))


def test_default_colours_are_distinct():
    colours = np.array(default_palette(30), int)
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(30, dtype=int)
    assert distance.min() > 10 and colours.min() >= 0 and colours.max() <= 255


def test_class_lists_are_checked():
    assert check_classes(2, None, [[1, 2, 3], [4, 5, 6]]) == (
        ["class_0", "class_1"],
        [(1, 2, 3), (4, 5, 6)],
    )
    for names, palette in ((["a"], None), (None, [(0, 0, 0)]), (None, [(0, 0, 0), (0, 0, 256)])):
        with pytest.raises(SceneError, match="expected"):
            check_classes(2, names, palette)
