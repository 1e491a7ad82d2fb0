"""Which files a dataset is read from, under whatever name."""

import os
import zipfile

import geopandas
import numpy as np
import pytest
import shapely

from hook.errors import SceneError
from hook.geo.sources import local_files
from hook.geo.staging import check_output

BAND = (
    '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="{}">{}'
    "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
)
LAYER = (
    '<OGRVRTDataSource><OGRVRTLayer name="j"><SrcDataSource relativeToVRT="1">{}</SrcDataSource>'
    "</OGRVRTLayer></OGRVRTDataSource>"
)


def virtual(source, relative=1):
    band = BAND.format(relative, str(source).replace("&", "&amp;"))
    return f'<VRTDataset rasterXSize="8" rasterYSize="8">{band}</VRTDataset>'


def index(folder, name):
    outline = [shapely.box(0, 0, 1, 1)]
    table = geopandas.GeoDataFrame({"location": ["a.tif"]}, geometry=outline, crs="EPSG:32633")
    table.to_file(folder / name)
    return name


@pytest.fixture
def folder(write_scene, tmp_path, monkeypatch):
    """A folder, the present one, with ``a.tif``, and names of it in other files."""
    write_scene(np.ones((1, 8, 8), np.uint8), "a.tif")
    (tmp_path / "b.vrt").write_text(virtual("a.tif"))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "c.vrt").write_text(virtual("../b.vrt"))
    (tmp_path / "d.vrt").write_text(virtual("vrt://a.tif?bands=1,1&unscale=false", 0))
    (tmp_path / "e.vrt").write_text(virtual(f"GTIFF_DIR:1:{tmp_path / 'a.tif'}", 0))
    (tmp_path / "f.VRT").write_text(virtual(index(tmp_path, "i.gti.gpkg")))
    (tmp_path / "g.gti").write_text(
        f"<GDALTileIndexDataset><IndexDataset>{index(tmp_path, 'j.shp')}</IndexDataset>"
        "<LocationField>location</LocationField></GDALTileIndexDataset>"
    )
    (tmp_path / "h.vrt").write_text(LAYER.format("j.shp"))
    (tmp_path / "link.tif").symlink_to("a.tif")
    os.link(tmp_path / "a.tif", tmp_path / "hard.tif")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "folder/a.tif")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name, file",
    [
        *((name, "a.tif") for name in ("a.tif", "./c/../a.tif", "link.tif", "hard.tif")),
        *((name, "a.tif") for name in ("b.vrt", "c/c.vrt", "d.vrt", "e.vrt", "f.VRT", "g.gti")),
        *((name, "a.tif") for name in ("i.gti.gpkg", "GTI:j.shp", "vrt://c/c.vrt?bands=1")),
        *((name, "a.tif") for name in ("GTIFF_DIR:1:a.tif", 'NETCDF:"a.tif":x', "GPKG:a.tif:x")),
        ("DERIVED_SUBDATASET:LOGAMPLITUDE:a.tif", "a.tif"),
        ("/vsisubfile/0_999,a.tif", "a.tif"),
        ("/vsicached?chunk_size=32768&file=a.tif", "a.tif"),
        ("file://{folder}/a.tif", "a.tif"),
        (virtual("a.tif", 0), "a.tif"),
        (virtual("/vsizip/{folder}/z.zip/folder/a.tif", 0), "z.zip"),
        *((name, "z.zip") for name in ("/vsizip/z.zip/folder/a.tif", "zip://z.zip!folder/a.tif")),
        ("/vsizip/{{folder}/z.zip}/folder/a.tif", "z.zip"),
        *((name, "j.dbf") for name in ("j.shp", "h.vrt", "g.gti")),
        ("f.VRT", "i.gti.gpkg"),
        ("c/c.vrt", "b.vrt"),
    ],
)
def test_an_input_is_known_under_any_name(folder, name, file):
    name = name.replace("{folder}", str(folder))
    assert (folder / file).stat().st_ino in {inode for _, inode in local_files([name])}
    for output in (file, folder / "c" / ".." / file):
        with pytest.raises(SceneError, match="is an input"):
            check_output(output, [name])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("k.py", '_base_ = ["../base/data.py", "middle.py"]\n'),
        ("k.py", "_base_ = [\n    'middle.py',\n]\nmodel = dict(type='a')\n"),
        ("k.py", '_base_ = "{{ fileDirname }}/middle.py"\n'),
        ("k.json", '{"_base_": ["middle.py"]}'),
        ("k.yml", "_base_:\n- middle.py\n"),
        ("k.py", "with read_base():\n    from .middle import *\n"),
        ("k.py", "with read_base():\n    from ..base.data import model\n"),
    ],
)
def test_configs_that_a_config_is_based_on_are_inputs(tmp_path, name, content):
    for folder in ("base", "configs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "base" / "data.py").write_text("model = dict()\n")
    (tmp_path / "configs" / "middle.py").write_text("_base_ = '../base/data.py'\n")
    (tmp_path / "configs" / "other.py").write_text("model = dict()\n")
    (tmp_path / "configs" / name).write_text(content)
    config = tmp_path / "configs" / name
    with pytest.raises(SceneError, match="is an input") as caught:
        check_output(tmp_path / "base" / "data.py", [config])
    assert name in caught.value.found
    check_output(tmp_path / "configs" / "other.py", [config])


@pytest.mark.parametrize("source", ["a.tif", "c/c.vrt"])
@pytest.mark.parametrize(
    "part",
    [
        *("a.tif.ovr", "a.tif.msk", "a.tif.aux.xml", "a.tif.vat.dbf", "a.tfw", "a.TFW", "a.tifw"),
        *("a.wld", "a.prj"),
    ],
)
def test_side_files_belong_to_an_input(folder, source, part):
    (folder / part).write_text("1")
    with pytest.raises(SceneError, match="is an input") as caught:
        check_output(folder / part, [source])
    assert part in str(caught.value) and source in str(caught.value)


def test_other_files_may_be_replaced(folder):
    names = ("map.tif", "a.gpkg", "a.qml", "a.json", "a.csv", "a b.tif", "c.tif", "a.tif.bak")
    for name in names:
        (folder / name).write_text("1")
    check_output([folder / name for name in names], ["a.tif", "c/c.vrt", "h.vrt", None, 3])
    check_output(folder / "c" / "map.tif", ["c/c.vrt"])  # a folder of a source is no input
    check_output(folder / "map.tif", [folder])
    (folder / "x.zarr").mkdir()
    (folder / "x.zarr" / "map.tif").write_text("1")
    with pytest.raises(SceneError, match="is an input"):
        check_output(folder / "x.zarr" / "map.tif", ["ZARR:x.zarr:/a"])


def test_a_name_that_no_file_can_have_is_named():
    with pytest.raises(SceneError, match="File name too long") as caught:
        check_output("n" * 300, [])
    assert "shorter" in str(caught.value)
