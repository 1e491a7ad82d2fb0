import pytest

from hook.datasets.splits import match_names
from hook.errors import DataError

FILES = ["data/north/a.tif", "data/north/b.tif", "data/south/a.tif"]


@pytest.mark.parametrize("name", ["north/a.tif", "north/a", "data/north/a", "north\\a.tif"])
def test_names_are_matched_by_any_tail_of_a_path(name):
    assert match_names(["b", name], FILES, "list") == [FILES[1], FILES[0]]


def test_another_folder_counts_only_where_that_is_asked_for():
    assert match_names(["2019/b.jpg"], FILES, "list", ignore_folder=True) == [FILES[1]]
    for names, options, found in (
        (["2019/b.tif"], {}, "missing: 2019/b.tif"),
        (["a"], {}, "ambiguous: a"),
        (["2019/a"], dict(ignore_folder=True), "ambiguous: 2019/a"),
        ([], {}, "no names"),
    ):
        with pytest.raises(DataError) as caught:
            match_names(names, FILES, "list", **options)
        assert found in str(caught.value)


DOTTED = ["data/scene.v2.png", "data/scene.tif", "data/a.b.tif", "data/2020.01.05_x.tif"]


@pytest.mark.parametrize("path", DOTTED)
def test_names_with_dots(path):
    name = path.rpartition("/")[2]
    for given in (name, name.rpartition(".")[0], name.rpartition(".")[0] + ".jpg"):
        assert match_names([given], DOTTED, "list") == [path]


@pytest.mark.parametrize("name", ["scene.v3", "a.c.tif", "2020.01.06_x", "a"])
def test_a_name_with_dots_is_not_that_of_a_different_image(name):
    with pytest.raises(DataError, match="do not match exactly one image"):
        match_names([name], DOTTED, "list")
