import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import rasterio
from mmengine.config import Config

from hook.datasets import GeoTIFFFolder
from hook.datasets.holdout import split_folder
from hook.datasets.inspection import inspect_files, inspect_folder
from hook.datasets.labels import LabelOptions, Labels
from hook.engine.fitting import build_cover, fit_data
from hook.errors import ConfigError, DataError


def checkerboard(*values, size=(32, 40)):
    return np.resize(np.array(values), size)


def inspect(root):
    found = inspect_folder(root)
    split_folder(found, root)
    return found


def test_folder_with_class_names_and_lists_of_its_own(labelled):
    root = labelled([checkerboard(0, 1, 2, 255)] * 4, bands=("red", "green", "blue"))
    (root / "classes.txt").write_text("bare soil #a08060\ngrass\nwater #0000ff\n")
    (root / "splits").mkdir()
    for part, name in (("train", "tile_3"), ("val", "tile_1"), ("test", "tile_0")):
        (root / "splits" / f"{part}.txt").write_text(f"{name}.tif\n")
    found = inspect(root)
    assert found.classes == ["bare soil", "grass", "water"]
    assert found.palette[0] == [160, 128, 96] and found.palette[2] == [0, 0, 255]
    assert found.palette[1] not in (found.palette[0], found.palette[2])
    assert found.bands == ["red", "green", "blue"]
    assert {k: v["split"] for k, v in found.splits.items()} == {
        part: str(root / "splits" / f"{part}.txt") for part in ("train", "val", "test")
    }


def test_names_of_values_and_colours_of_the_mask_where_nobody_named_them(labelled):
    root = labelled([checkerboard(0, 1, 3)], colours={0: (1, 2, 3), 1: (4, 5, 6), 3: (7, 8, 9)})
    found = inspect(root)
    assert found.classes == ["class 0", "class 1", "class 3"]
    assert found.options == dict(label_map={0: 0, 1: 1, 3: 2})
    assert found.palette == [[1, 2, 3], [4, 5, 6], [7, 8, 9]] and found.bands == [1, 2, 3]


def name_values(mask, **names):
    """Write a table of names by value, as ArcGIS does."""
    table = pandas.DataFrame({"Value": [*map(int, names.values())], "Class_Name": [*names]})
    pyogrio.write_dataframe(table, f"{mask}.vat.dbf", driver="ESRI Shapefile")


def test_names_in_attribute_tables_of_the_masks(labelled):
    # ArcGIS lists the values that occur in a mask.
    root = labelled([checkerboard(1, 3), checkerboard(3, 7)])
    tiles = [root / "masks" / f"tile_{k}.tif" for k in range(2)]
    name_values(tiles[0], wood=3, water=1)
    name_values(tiles[1], wood=3, town=7)
    found = inspect_files(root / "images", root / "masks")
    assert found.classes == ["water", "wood", "town"]
    assert found.options == dict(label_map={1: 0, 3: 1, 7: 2})
    other = inspect_files(root / "images", root / "masks", classes={1: "a", 3: "b"})
    assert other.classes == ["a", "b"]
    name_values(tiles[1], wood=3)
    with pytest.warns(UserWarning, match="tile_1.tif: values 7 have no name, unlike 1, 3"):
        found = inspect_files(root / "images", root / "masks")
    assert found.classes == ["water", "wood", "class 7"]
    name_values(tiles[1], town=3)
    with pytest.raises(DataError, match="tile_1.tif: value 3 is 'town'") as caught:
        inspect_files(root / "images", root / "masks")
    assert "'wood', as in" in caught.value.expected


def test_a_name_of_the_nodata_value_is_no_class(labelled):
    root = labelled([checkerboard(0, 1, 2, 4)], nodata=0)
    name_values(root / "masks" / "tile_0.tif", nothing=0, water=1, wood=2, town=4)
    found = inspect_files(root / "images", root / "masks")
    assert found.classes == ["water", "wood", "town"]
    assert found.options == dict(label_map={1: 0, 2: 1, 4: 2})


def test_binary_masks_with_255_for_the_object(labelled):
    found = inspect(labelled([checkerboard(0, 255)]))
    assert found.classes == ["background", "object"]
    assert found.options == dict(label_map={0: 0, 255: 1}, mask_nodata=None)


def test_vector_masks_are_two_classes(labelled):
    root = labelled([checkerboard(0, 1)])
    (root / "masks" / "tile_0.tif").unlink()
    box = geopandas.GeoSeries.from_wkt(["POINT (500020 4999980)"], crs="EPSG:32632").buffer(15)
    box.to_file(root / "masks" / "houses.gpkg")
    assert inspect(root).classes == ["background", "object"]
    (root / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match="two classes"):
        inspect(root)


def test_class_names_may_come_with_their_index(labelled):
    root = labelled([checkerboard(0, 1)])
    (root / "classes.txt").write_text("0 background\n1 building #ff0000\n")
    found = inspect(root)
    assert found.classes == ["background", "building"] and found.palette[1] == [255, 0, 0]


def test_images_that_only_their_mask_places(labelled, load_tool, repo):
    root = labelled([checkerboard(0, 1, size=(32, 100))])
    path = root / "images" / "tile_0.tif"
    with rasterio.open(path) as src:
        image, place = src.read(), (src.crs, src.transform, src.bounds)
    path.unlink()
    with rasterio.open(
        path, "w", driver="GTiff", height=32, width=100, count=3, dtype="uint8"
    ) as d:
        d.write(image)
    assert inspect(root).splits["train"]["split"]["bounds"][0] == place[2].left
    cfg = Config.fromfile(repo / "configs" / "hook" / "demo_hook.py")
    fit_data(cfg, inspect(root))
    scene = build_cover(cfg, "test").scenes[0]
    with rasterio.open(load_tool("demo.py").georeferenced(scene, root)) as src:
        assert (src.crs, src.transform) == place[:2]
        assert np.array_equal(src.read(), image)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda r: (r / "masks").rename(r / "labels"), "masks does not exist"),
        (lambda r: [p.unlink() for p in (r / "images").iterdir()], "has no usable file"),
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
def test_bad_folders_end_with_a_clear_error(load_tool, labelled, prepare, message, capsys):
    root = labelled([checkerboard(0, 1, 2)])
    prepare(root)
    with pytest.raises(DataError, match=message):
        inspect(root)
    with pytest.raises(SystemExit) as exit_info:
        load_tool("demo.py").main(["--data", str(root), "--work-dir", str(root / "out")])
    assert exit_info.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "expected:" in error and "Traceback" not in error
    assert not (root / "out").exists()


def test_masks_without_class_indexes(labelled):
    with pytest.raises(DataError, match="are not class indexes"):
        inspect(labelled([np.arange(1280).reshape(32, 40) % 200]))
    with pytest.raises(DataError, match="is not a mask"):
        inspect(labelled([checkerboard(0, 1)], dtype="float32"))


def test_truncated_mask(labelled):
    root = labelled([np.random.default_rng(0).integers(0, 3, (300, 300))])
    path = root / "masks" / "tile_0.tif"
    path.write_bytes(path.read_bytes()[:-40_000])
    with pytest.raises(DataError, match="cut off or damaged|cannot be read"):
        inspect(root)


def _houses(root, kinds, layer=None):
    """Boxes with a class each, in a vector file."""
    boxes = geopandas.GeoSeries.from_wkt(
        [f"POINT ({500005 + 10 * k} 4999985)" for k in range(len(kinds))], crs="EPSG:32632"
    ).buffer(4)
    path = root / "houses.gpkg"
    geopandas.GeoDataFrame({"kind": kinds}, geometry=boxes).to_file(path, layer=layer)
    return path


def test_classes_of_an_attribute_filled_in_by_hand(labelled):
    root = labelled([checkerboard(0, 1)])
    path = _houses(root, ["x ", " y", "x", "y", "x\xa0"])
    found = inspect_files(root / "images", path, label="kind")
    assert found.classes == ["x", "y"]
    labels = Labels(LabelOptions(**found.options), found.classes, 255)
    assert labels.table(str(path))[1].tolist() == [0, 1, 0, 1, 0]
    for blank in ("", "  ", None):
        path = _houses(root, ["x", "y", blank])
        with pytest.raises(DataError, match="features without kind"):
            inspect_files(root / "images", path, label="kind")
    numbers = inspect_files(root / "images", _houses(root, [1.0, 2.0, 2.0]), label="kind")
    assert numbers.classes == ["1", "2"]


def test_the_layer_of_the_labels(labelled):
    root = labelled([checkerboard(0, 1)])
    _houses(root, ["x", "y"], layer="first")
    path = _houses(root, ["a", "b", "c"], layer="second")
    found = inspect_files(root / "images", path, label="kind", layer="second")
    assert found.classes == ["a", "b", "c"] and found.options["mask_layer"] == "second"
    named = f"{path}|layername=second"
    assert inspect_files(root / "images", named, label="kind").classes == ["a", "b", "c"]
    with pytest.warns(UserWarning, match="2 layers: first .*, second"):
        assert inspect_files(root / "images", path, label="kind").classes == ["x", "y"]
    path.unlink()
    pyogrio.write_dataframe(pandas.DataFrame({"note": ["drawn in May"]}), path, layer="notes")
    _houses(root, ["x", "y"], layer="houses")
    options = dict(label_field="kind", background=0, label_map={"x": 0, "y": 1}, chip_size=32)
    data = GeoTIFFFolder(
        "images", "houses.gpkg", str(root), dict(classes=("x", "y")), mode="cover", **options
    )
    assert np.unique(data[0]["gt_seg_map"]).tolist() == [0, 1]
    with pytest.raises(ConfigError, match="labels are rasters"):
        inspect_files(root / "images", root / "masks", layer="second")


@pytest.mark.parametrize(
    ("dtype", "values", "ignored"),
    [
        ("int16", (-1, 0, 1), [-1]),
        ("int8", (0, 1, -128), [-128]),
        ("int32", (-9999, 1, 0, 255, 2), [-9999, 255]),
        ("uint16", (65535, 0, 1), [65535]),
    ],
)
@pytest.mark.parametrize("classes", [None, ["bare", "grass", "water"]])
def test_values_below_zero_are_no_class(labelled, dtype, values, ignored, classes):
    root = labelled([checkerboard(*values)] * 2, dtype=dtype)
    with pytest.warns(UserWarning, match=f"mask values {ignored[0]} are ignored") as told:
        found = inspect_files(root / "images", root / "masks", classes=classes)
    assert len(told) == 1
    known = [value for value in values if value not in ignored]
    assert len(found.classes) == len(classes or known)
    wanted = set(range(len(found.classes))) | set(ignored)
    assert set(found.options["label_map"]) == wanted
    data = GeoTIFFFolder(
        root / "images", root / "masks", metainfo=dict(classes=found.classes), chip_size=32,
        mode="cover", **found.options,
    )  # fmt: skip
    labels = data[0]["gt_seg_map"]
    mask = checkerboard(*values)[:, :32]
    expected = np.where(np.isin(mask, ignored), 255, mask)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("nodata", [None, -1])
def test_values_below_zero_that_are_named_or_tagged(labelled, nodata):
    root = labelled([checkerboard(-1, 0, 1)], dtype="int16", nodata=nodata)
    classes = {0: "a", 1: "b"} | ({} if nodata else {-1: "cloud"})
    found = inspect_files(root / "images", root / "masks", classes=classes)
    assert found.classes == list(classes.values())
