import errno
import os
import resource
import sqlite3
import subprocess
import sys

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
import torch

from hook.errors import SceneError
from hook.geo.raster import quiet_open
from hook.geo.staging import StagedFiles, atomic_write, check_output, save_png


def test_files_appear_on_commit_only(tmp_path):
    with StagedFiles() as files:
        staged = files.add(tmp_path / "a.txt")
        staged.write_text("a")
        assert not (tmp_path / "a.txt").exists() and staged.parent.parent == tmp_path
        files.commit()
    assert (tmp_path / "a.txt").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), StagedFiles() as files:
        files.add(tmp_path / "a.txt").write_text("a")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_overwriting_is_asked_for(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "a.txt.ovr").write_text("old")
    with pytest.raises(SceneError, match="exists already"), StagedFiles() as files:
        files.add(tmp_path / "a.txt")
    with StagedFiles(overwrite=True) as files:
        files.add(tmp_path / "a.txt").write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
        files.commit()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_impossible_places_are_named(tmp_path):
    with StagedFiles(overwrite=True) as files:
        with pytest.raises(SceneError, match="is a folder"):
            files.add(tmp_path)
        with pytest.raises(SceneError, match=r"absent.*cannot be written"):
            files.add(tmp_path / "absent" / "a.txt")
        files.add(tmp_path / "a.txt")
        (tmp_path / "link").symlink_to(tmp_path)
        for name in ("a.txt", "link/a.txt"):
            with pytest.raises(SceneError, match="named twice"):
                files.add(tmp_path / name)


def test_atomic_write_gives_the_permissions_of_new_files(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_write(tmp_path / "file") as partial:
        partial.touch(mode=0o600)  # as safetensors does
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode


def test_atomic_write_keeps_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "folder" / "a.txt"
    with atomic_write(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    with pytest.raises(ValueError, match="broken"), atomic_write(path) as partial:
        partial.write_text("two")
        raise ValueError("broken")
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def save_weights(value, path):
    with open(path, "wb") as file:  # PyTorch 2.8 does not notice a full disk by itself
        torch.save(value, file)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("save", [save_weights, lambda value, path: path.write_bytes(bytes(9))])
def test_a_failed_write_names_the_file(tmp_path, save):
    with (
        pytest.raises(SceneError, match=r"a\.pth: cannot be written"),
        atomic_write(tmp_path / "a.pth") as partial,
    ):
        partial.symlink_to("/dev/full")
        save({"weight": torch.zeros(9)}, partial)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", [".ovr", ".msk", "-wal", "-journal", ".aux.xml"])
def test_what_is_read_with_a_file_is_replaced_with_it(tmp_path, end):
    side = tmp_path / f"a.tif{end}"
    side.write_text("old")
    with pytest.raises(SceneError, match="exists already.*would be read with"):
        StagedFiles().add(tmp_path / "a.tif")
    with pytest.raises(SceneError, match="is an input"), StagedFiles(True, None, [side]) as files:
        files.add(tmp_path / "a.tif")
    assert side.read_text() == "old"
    side.write_text("<PAMDataset><PAMRasterBand/></PAMDataset>")
    with atomic_write(tmp_path / "a.tif") as partial:
        partial.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_settings_of_a_user_are_kept_under_another_name(tmp_path):
    side = tmp_path / "a.tif.aux.xml"
    for number in range(2):
        side.write_text(f"<PAMDataset><SRS>EPSG:3263{number}</SRS></PAMDataset>")
        before = side.read_text()
        if not number:
            with pytest.warns(UserWarning, match="kept as a.tif.aux.xml.bak"):
                save_png(tmp_path / "a.tif", np.zeros((2, 2), np.uint8))
            assert (tmp_path / "a.tif.aux.xml.bak").read_text() == before
    with pytest.raises(SceneError, match="bak exists already"):
        save_png(tmp_path / "a.tif", np.zeros((2, 2), np.uint8))
    assert side.read_text() == before


def test_a_stac_item_is_replaced_by_its_like_only(tmp_path):
    item = tmp_path / "map.json"
    item.write_text('{"type": "Feature", "stac_version": "1.1.0"}')
    with pytest.raises(SceneError, match="map.json: is a STAC Item"), StagedFiles(True) as files:
        files.add(item)
    with pytest.raises(SceneError, match="is a STAC Item"), atomic_write(item) as partial:
        partial.write_text("{}")
    with StagedFiles(True) as files:
        files.add(item, lambda _: True).write_text("{}")
        files.commit()
    with atomic_write(item) as partial:
        partial.write_text("[]")
    assert item.read_text() == "[]"


def test_the_attribute_table_of_an_overwritten_map_is_kept_under_another_name(tmp_path):
    path, table = tmp_path / "map.tif", tmp_path / "map.tif.vat.dbf"
    for file in (path, table):
        file.write_text("old")
    with pytest.warns(UserWarning, match="kept as map.tif.vat.dbf.bak"), StagedFiles(True) as files:
        files.add(path).write_text("new")
        files.commit()
    assert not table.exists() and (tmp_path / "map.tif.vat.dbf.bak").read_text() == "old"


def test_files_of_others_are_kept(tmp_path):
    (tmp_path / "a.txt").write_text("theirs")
    with (
        pytest.warns(UserWarning, match="a.txt: kept"),
        StagedFiles(overwrite=True) as files,
    ):
        files.add(tmp_path / "a.txt", lambda path: path.read_text() == "ours").write_text("new")
        files.commit()
    assert (tmp_path / "a.txt").read_text() == "theirs"
    (tmp_path / "a.txt").write_text("ours")
    with StagedFiles(overwrite=True) as files:
        files.add(tmp_path / "a.txt", lambda path: path.read_text() == "ours").write_text("new")
        files.commit()
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_file_of_another_process_is_not_replaced(tmp_path):
    with pytest.raises(SceneError, match="meanwhile"), StagedFiles() as files:
        files.add(tmp_path / "a.txt").write_text("mine")
        (tmp_path / "a.txt").write_text("theirs")
        files.commit()
    assert (tmp_path / "a.txt").read_text() == "theirs"


@pytest.mark.parametrize("end", [".gpkg", ".fgb", ".geojson", ".tif"])
def test_names_of_any_length_that_fits_are_written(tmp_path, end):
    from hook.scenes import polygonize

    path = tmp_path / ("n" * (255 - len(end)) + end)
    classes = tmp_path / "classes.tif"
    profile = dict(width=8, height=8, count=1, dtype="uint8", driver="GTiff", crs="EPSG:32633")
    profile |= dict(transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6))
    with quiet_open(classes, "w", **profile) as file:
        file.write(np.eye(8, dtype=np.uint8), 1)
    if end != ".tif":
        assert polygonize(classes, path, progress=False) == len(geopandas.read_file(path)) == 10
    else:
        with StagedFiles() as files:  # GDAL appends to the name of a COG
            rasterio.shutil.copy(classes, files.add(path), driver="COG")
            files.commit()
        assert path.stat().st_size > 500
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("length", [4070, 4090])
def test_paths_too_long_for_hidden_files_are_refused_before(tmp_path, length):
    folder = tmp_path
    while (left := length - len(str(folder)) - len("/map.gpkg")) > 1:
        folder /= "d" * min(left - 1, 200)
        folder.mkdir()
    with pytest.raises(SceneError, match="File name too long"):
        check_output(folder / "map.gpkg", ())
    assert not list(folder.iterdir())


def test_a_world_file_that_gdal_takes_for_that_of_a_new_picture_is_named(tmp_path):
    world = tmp_path / "a.wld"
    world.write_text("2\n0\n0\n-2\n100\n100\n")
    with pytest.warns(UserWarning, match=r"a\.png: GDAL reads a\.wld"):
        save_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    grid = dict(driver="GTiff", height=2, width=2, count=1, dtype="uint8", crs="EPSG:32633")
    with atomic_write(tmp_path / "a.tif") as partial:  # it has a transform, which GDAL prefers
        with rasterio.open(partial, "w", **grid, transform=rasterio.Affine(1, 0, 5, 0, -1, 5)):
            pass
    with quiet_open(tmp_path / "a.tif") as source:
        assert source.transform.c == 5


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_log_of_a_crashed_program_is_not_replayed(tmp_path, mode):
    path = tmp_path / "a.gpkg"
    squares = [shapely.box(0, 0, 1, 1)] * 500
    geopandas.GeoDataFrame({"v": range(500)}, geometry=squares, crs=32633).to_file(
        path, layer="old"
    )
    code = """if True:
        import os, sqlite3, sys
        db = sqlite3.connect(sys.argv[1])
        for name in ("journal_mode=" + sys.argv[2], "wal_autocheckpoint=0", "cache_size=1"):
            db.execute("pragma " + name)
        for (name,) in db.execute("select name from sqlite_master where type='trigger'").fetchall():
            db.execute(f'drop trigger "{name}"')
        db.commit()
        db.execute("update old set v = v + 1")
        if sys.argv[2] == "wal":
            db.commit()
        os._exit(9)
    """
    subprocess.run([sys.executable, "-c", code, path, mode], check=False)
    assert any(file.stat().st_size for file in tmp_path.glob("a.gpkg-*"))
    with atomic_write(path) as partial, sqlite3.connect(partial) as database:
        database.execute("create table new (v)")
    with sqlite3.connect(path) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("select name from sqlite_master").fetchall() == [("new",)]


@pytest.mark.parametrize("staged", [True, False])
def test_a_full_disk_is_told_of_and_leaves_nothing(tmp_path, staged):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(SceneError, match=r"a\.tif: cannot be written") as caught:
            if staged:
                with StagedFiles() as files:
                    files.add(tmp_path / "a.tif").write_bytes(b"1" * 200)
            else:
                noise = np.random.default_rng(0).integers(0, 255, (99, 99))
                save_png(tmp_path / "a.tif", noise.astype(np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.strerror(errno.EFBIG) in str(caught.value) and not list(tmp_path.iterdir())
