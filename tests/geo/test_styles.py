import json
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from hook.errors import SceneError
from hook.geo.side_files import is_own_side_file
from hook.geo.styles import (
    ClassStyle,
    check_classes,
    distinct_palette,
    is_own_style,
    map_dtype,
    read_category_names,
    read_classes,
    write_category_names,
    write_qml,
    write_style,
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


def test_one_style_fits_a_map_and_its_polygons(tmp_path):
    write_qml(tmp_path / "map.qml", NAMES, [(255, 0, 0), (0, 16, 0), (1, 2, 3)], [0, 4, 7])
    root = ElementTree.parse(tmp_path / "map.qml").getroot()
    renderer = root.find("renderer-v2")
    assert (renderer.get("type"), renderer.get("attr")) == ("categorizedSymbol", "class_id")
    found = {}
    for category in renderer.iter("category"):
        symbol = renderer.find(f"symbols/symbol[@name='{category.get('symbol')}']")
        options = {entry.get("name"): entry.get("value") for entry in symbol.iter("Option")}
        found[category.get("value")] = category.get("label"), options["color"]
    colours = ("255,0,0,255", "0,16,0,255", "1,2,3,255")
    assert found == dict(zip("047", zip(NAMES, colours, strict=True), strict=True))
    assert [entry.get("value") for entry in root.iter("paletteEntry")] == list("047")


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
    colours = np.array(distinct_palette(30), int)
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


CLASSES = [ClassStyle(1, "Straße, breit", (255, 0, 16)), ClassStyle(3, "water", (1, 2, 3))]


def test_lists_of_classes(tmp_path):
    (tmp_path / "a.csv").write_text(
        '\ufeffvalue,name,colour\n3,water,#010203\n1,"Straße, breit",#FF0010\n', encoding="utf-8"
    )
    entries = [{"value": c.value, "name": c.name} for c in CLASSES]
    entries[0]["color"], entries[1]["colour"] = "#ff0010", "#010203"
    (tmp_path / "a.json").write_text(json.dumps(entries))
    assert read_classes(tmp_path / "a.csv") == read_classes(tmp_path / "a.json") == CLASSES


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "", "unknown list"),
        ("a.json", "[", "cannot be read"),
        ("a.json", "{}", "names no classes"),
        ("a.json", "[3]", "class 1"),
        ("a.csv", "value,name,colour\n", "names no classes"),
        ("a.csv", "value,name,colour\n1,a,#010203\n1,b,#010203\n", "value 1 is named twice"),
        ("a.csv", "value,name,colour\n1,a,#010203\n-1,b,#010203\n", "class 2"),
        ("a.csv", "value,name,colour\n1,a,red\n", "class 1"),
        ("a.csv", "value,name\n1,a\n", "class 1"),
        ("a.csv", "value,name,colour\n70000,a,#010203\n", "0 to 65535"),
    ],
)
def test_bad_lists_of_classes_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SceneError, match=message) as caught:
        read_classes(tmp_path / name)
    assert name in str(caught.value)
    with pytest.raises(SceneError, match="cannot be read"):
        read_classes(tmp_path / "absent.csv")


def test_gdal_reads_the_style_and_the_map_stays_as_it_is(write_scene, tmp_path):
    path = write_scene(np.ones((1, 4, 4), np.uint8), "map.tif", photometric="palette")
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {1: (9, 9, 9), 3: (8, 8, 8)})
    before = path.read_bytes()
    written = write_style(path, CLASSES)
    assert path.read_bytes() == before
    assert sorted(p.name for p in written) == ["map.qml", "map.tif.aux.xml"]
    # The table beside the map prevails over that in it.
    with rasterio.open(path) as source:
        colours = source.colormap(1)
    assert colours[1] == (255, 0, 16, 255) and colours[3] == (1, 2, 3, 255)
    assert colours[2][3] == 0
    rasterio.shutil.copy(path, tmp_path / "copy.vrt", driver="VRT")
    categories = ElementTree.parse(tmp_path / "copy.vrt").findall(".//CategoryNames/Category")
    assert [c.text or "" for c in categories] == ["", "Straße, breit", "", "water"]
    entries = ElementTree.parse(tmp_path / "map.qml").findall(".//paletteEntry")
    assert [(e.get("value"), e.get("color")) for e in entries] == [
        ("1", "#ff0010"),
        ("3", "#010203"),
    ]


def test_a_style_is_replaced_on_demand_and_statistics_stay(write_scene, tmp_path):
    path = write_scene(np.ones((1, 4, 4), np.uint8), "map.tif")
    side_file = tmp_path / "map.tif.aux.xml"
    side_file.write_text(
        '<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category>old</Category>'
        '</CategoryNames><Metadata><MDI key="STATISTICS_MEAN">1.5</MDI></Metadata>'
        "</PAMRasterBand></PAMDataset>"
    )
    before = side_file.read_bytes()
    with pytest.raises(SceneError, match=r"map\.tif\.aux\.xml: has names"):
        write_style(path, CLASSES)
    assert side_file.read_bytes() == before and not (tmp_path / "map.qml").exists()
    write_style(path, CLASSES, overwrite=True)
    assert read_category_names(path) == ["", "Straße, breit", "", "water"]
    with rasterio.open(path) as source:
        assert source.tags(1)["STATISTICS_MEAN"] == "1.5"
    side_file.unlink()
    with pytest.raises(SceneError, match=r"map\.qml: exists already"):
        write_style(path, CLASSES)
    assert not side_file.exists()


def test_a_style_is_known_to_be_ours_until_someone_edits_it(write_scene, tmp_path):
    path = write_scene(np.ones((1, 4, 4), np.uint8), "map.tif")
    style = tmp_path / "map.qml"
    write_style(path, CLASSES)
    ours = style.read_text()
    assert is_own_style(style) and not is_own_style(tmp_path / "absent.qml")
    write_qml(tmp_path / "b.qml", ["a <b> & ä", ""], [(0, 0, 0), (255, 255, 255)])
    assert is_own_style(tmp_path / "b.qml")
    for edited in (
        ours.replace("#ff0010", "#ff0011"),
        ours.replace("water", "lake"),
        ours.replace("</qgis>", "<!-- mine --></qgis>"),
        ours.replace('styleCategories="Symbology"', 'styleCategories="AllStyleCategories"'),
        "<qgis/>",
        "mine",
        "",
    ):
        style.write_text(edited)
        assert not is_own_style(style)
        with pytest.warns(UserWarning, match=r"map\.qml.*kept as map\.qml\.bak"):
            write_style(path, CLASSES, overwrite=True)
        assert (tmp_path / "map.qml.bak").read_text() == edited and style.read_text() == ours
        (tmp_path / "map.qml.bak").unlink()


@pytest.mark.parametrize(
    "content, ours",
    [
        ("<CategoryNames><Category>a</Category></CategoryNames><Histograms/>", True),
        ('<Metadata><MDI key="STATISTICS_MEAN">1</MDI></Metadata>', True),
        ("<ColorInterp>Palette</ColorInterp><ColorTable/>", True),
        ('<Metadata><MDI key="author">me</MDI></Metadata>', False),
        ("<NoDataValue>3</NoDataValue>", False),
    ],
)
def test_what_a_user_sets_beside_a_raster_is_known(tmp_path, content, ours):
    path = tmp_path / "a.tif.aux.xml"
    band = '<PAMDataset><PAMRasterBand band="1">{}</PAMRasterBand></PAMDataset>'
    path.write_text(band.format(content))
    assert is_own_side_file(path) == ours
    path.write_text(f"<PAMDataset><SRS>x</SRS>{content}</PAMDataset>")
    assert not is_own_side_file(path)
    path.write_text("no xml")
    assert not is_own_side_file(path)


def test_dtype_and_nodata_of_a_map():
    # 255 classes are 0 to 254: uint8 has one value left for nodata.
    assert map_dtype(255, None) == ("uint8", 255)
    assert map_dtype(256, None) == ("uint16", 65535)
    assert map_dtype(4, 100) == ("uint8", 100)
    for num_classes, nodata in ((4, 3), (4, 256), (4, -1), (300, 255), (0, None), (70000, None)):
        with pytest.raises(SceneError, match="expected"):
            map_dtype(num_classes, nodata)
