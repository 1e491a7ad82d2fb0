"""Searching folders, and names of files."""

import pytest

from hook.datasets.files import pair_name, search_folder, stem_of


@pytest.fixture
def linked(tmp_path):
    """Images in a folder and in linked ones, with loops."""
    for name in ("near/images/n0.tif", "far/deep/f0.tif", "far/f1.TIF", "far/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images, far = tmp_path / "near/images", tmp_path / "far"
    for link, target in (
        ("site_a", far),
        ("site_b", far),  # a second link to the same folder
        ("loop", images),
        ("gone", tmp_path / "gone"),
    ):
        (images / link).symlink_to(target, target_is_directory=True)
    (far / "deep" / "up").symlink_to(far, target_is_directory=True)
    (far / "deep" / "itself").symlink_to(far / "deep" / "itself", target_is_directory=True)
    return images


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*"], ["n0.tif", "site_a/deep/f0.tif", "site_a/f1.TIF", "site_a/notes.txt"]),
        (["*.tif"], ["n0.tif", "site_a/deep/f0.tif"]),
        (["deep/*.tif"], ["site_a/deep/f0.tif"]),
        (["n0*", "f1.*"], ["n0.tif", "site_a/f1.TIF"]),
    ],
)
def test_linked_folders_are_searched_once(linked, patterns, names):
    found = search_folder(linked, patterns)
    assert sorted(path.relative_to(linked).as_posix() for path in found) == names


@pytest.mark.parametrize(
    ("name", "stem"),
    [("scene.v2.png", "scene.v2"), ("scene.v2", "scene.v2"), ("a.b.TIF", "a.b"), ("x", "x")],
)
def test_dots_belong_to_the_name(name, stem):
    assert stem_of(name) == stem


def test_pairs_of_names_with_dots():
    assert pair_name("images/a.b.tif") == pair_name("masks/a.b_mask.png") == "a.b"
    assert pair_name("a.b.tif") != pair_name("a.c.tif")
