"""What an interrupted map leaves behind, when it is killed while it clears up too."""

import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest

from hook.errors import SceneError
from hook.scenes.journal import Journal, exclusive, fingerprint_of_file, finished


def open_journal(folder, weights="first", **options):
    return Journal(folder / "map.tif", {"weights": weights}, **options)


def test_pieces_are_there_when_they_have_their_names(tmp_path):
    journal = open_journal(tmp_path)
    journal.write_text("block0.done", "{}")
    journal.partial("block1.done").write_text("{")
    again = open_journal(tmp_path, resume=True)
    assert again.has("block0.done") and not again.has("block1.done")
    assert not list(again.folder.glob("*.partial*"))
    again.remove()
    assert not list(tmp_path.iterdir())


def test_pieces_without_a_fingerprint_are_nobodys(tmp_path):
    journal = open_journal(tmp_path)
    journal.write_text("block0.done", "{}")
    journal.path("fingerprint.json").unlink()
    assert not open_journal(tmp_path, "second", resume=True).has("block0.done")


def test_a_folder_is_never_gone_on_with_once_it_is_being_removed(tmp_path, monkeypatch):
    journal = open_journal(tmp_path)
    for number in range(3):
        journal.write_text(f"block{number}.done", "{}")

    def killed_after_the_first(folder, **options):
        if folder.exists():
            next(folder.iterdir()).unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            journal.remove()
    (tmp_path / "map.tif").touch()  # it was complete
    with pytest.raises(SceneError, match="exists already"):
        open_journal(tmp_path)
    again = open_journal(tmp_path, "second", resume=True)
    assert not list(again.folder.glob("*.done"))
    again.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]


def test_another_run_is_told_by_what_differs(tmp_path):
    open_journal(tmp_path)
    with pytest.raises(SceneError, match="what differs: weights") as caught:
        open_journal(tmp_path, "second", resume=True)
    assert "--overwrite" in str(caught.value)


def test_files_are_told_by_size_time_and_head(tmp_path):
    path = tmp_path / "scene.tif"
    path.write_bytes(b"one")
    first = fingerprint_of_file(path)
    assert fingerprint_of_file(path) == first
    path.write_bytes(b"two")
    assert fingerprint_of_file(path)["head"] != first["head"]
    assert fingerprint_of_file("/vsicurl/http://x/y.tif") == {"name": "/vsicurl/http://x/y.tif"}


def test_one_run_at_a_time_writes_a_map(tmp_path):
    output = tmp_path / "map.tif"
    with exclusive(output):
        with pytest.raises(SceneError, match="a different run is writing it"), exclusive(output):
            pass
        with exclusive(tmp_path / "other.tif"):
            pass
    with exclusive(output):
        pass
    assert not list(tmp_path.iterdir())


def test_a_killed_run_does_not_count(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from hook.scenes.journal import exclusive\n"
        "with exclusive(Path(sys.argv[1])): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "map.tif"], check=False)
    assert (tmp_path / ".map.tif.lock").exists()
    with exclusive(tmp_path / "map.tif"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [244, 251, 300])
def test_a_name_too_long_for_the_files_beside_it_is_told_of(tmp_path, length):
    output = tmp_path / f"{'n' * (length - 4)}.tif"
    with pytest.raises(SceneError, match="File name too long") as caught, exclusive(output):
        Journal(output, {})
    assert "shorter name" in str(caught.value) and not list(tmp_path.iterdir())


def test_a_disk_that_is_full_from_the_start_keeps_no_folder(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, limits[1]))
    try:
        with pytest.raises(SceneError, match="cannot be written"):
            open_journal(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_known_by_settings_and_files(tmp_path, monkeypatch):
    output, other = tmp_path / "map.tif", tmp_path / "map.json"
    settings, further = {"overlap": 0.5, "model": {"weights": "a" * 64}}, {"vectors": None}

    def finish():
        journal = Journal(output, settings, further=further)
        output.write_bytes(b"map")
        other.write_bytes(b"item")
        journal.finish([other, output], {"windows": 3})
        assert finished(output, settings | further) is None  # not cleared up
        journal.remove()

    def refusal(**changed):
        with pytest.raises(SceneError, match="exists already") as caught:
            Journal(output, settings, resume=True, further=further | changed)
        return str(caught.value)

    finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "map.tif"]
    assert finished(output, settings | further) == {"windows": 3}
    assert finished(output, settings | {"vectors": "a.gpkg"}) is None
    assert 'vectors (null, now "a.gpkg")' in refusal(vectors="a.gpkg")
    changed = {"overlap": 0.5, "model": {"weights": "b" * 64}} | further
    assert finished(output, changed) is None
    shutil.copyfile(other, output)  # in place
    assert finished(output, settings | further) is None
    assert "map.tif (changed since)" in refusal()
    output.unlink()
    finish()
    other.unlink()
    assert "map.json (missing)" in refusal()
    output.unlink()

    def unsupported(*arguments):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    finish()
    assert finished(output, settings | further) == {"windows": 3}
    assert {path.name for path in tmp_path.iterdir()} == {".map.tif.run", "map.json", "map.tif"}
