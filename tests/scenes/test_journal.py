"""What an interrupted map leaves behind, when it is killed while it clears up too."""

import shutil

import pytest

from hook.errors import SceneError
from hook.scenes.journal import Journal, fingerprint_of_file


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
