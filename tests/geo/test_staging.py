import pytest

from hook.errors import SceneError
from hook.geo.staging import StagedFiles, atomic_write


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
        files.supersede(tmp_path / "a.txt.ovr")
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
        with pytest.raises(SceneError, match="named twice"):
            files.add(tmp_path / "a.txt")


def test_atomic_write_keeps_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "folder" / "a.txt"
    with atomic_write(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    with pytest.raises(ValueError, match="broken"), atomic_write(path) as partial:
        partial.write_text("two")
        raise ValueError("broken")
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]
