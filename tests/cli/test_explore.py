"""Options of ``hook explore``."""

from unittest.mock import call, create_autospec

import pytest

from hook.cli import main
from hook.explore import opening


@pytest.fixture
def explored(monkeypatch):
    """The function below the command, not run."""
    stand_in = create_autospec(opening.explore)
    monkeypatch.setattr(opening, "explore", stand_in)
    return stand_in


def test_options_are_passed_on(explored):
    main(
        "explore scene.tif --model name --out folder --scale 20 --regions-per-km2 5 --bidx 4,3,2 "
        "--nodata 0 --embedding seeds --device cuda --threads 2 --port 8000 --no-browser".split()
    )
    assert explored.mock_calls == [
        call(
            "scene.tif",
            regions=None,
            model="name",
            out="folder",
            scale=20,
            regions_per_km2=5,
            embedding="seeds",
            bidx=[4, 3, 2],
            nodata=0,
            device="cuda",
            threads=2,
            port=8000,
            opened=None,
        )
    ]


@pytest.mark.parametrize(
    ("words", "model", "regions"),
    [
        ("scene.tif", None, None),
        ("scene.tif --regions r.parquet", None, "r.parquet"),
        ("config.py checkpoint.pth scene.tif", ("config.py", "checkpoint.pth"), None),
    ],
)
def test_where_regions_come_from(explored, words, model, regions):
    main(["explore", *words.split()])
    (scene,), given = explored.call_args
    assert (scene, given["model"], given["regions"]) == ("scene.tif", model, regions)
    assert (given["port"], given["out"]) == (0, None) and "opened" not in given


@pytest.mark.parametrize(
    "words",
    [
        "",
        "config.py scene.tif",
        "a.py b.pth c.tif d.tif",
        "a.py b.pth c.tif --model name",
        "scene.tif --model name --regions r.parquet",
        "scene.tif --port 70000",
        "scene.tif --port x",
        "scene.tif --scale 0",
    ],
)
def test_bad_options(explored, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["explore", *words.split()])
    assert ended.value.code == 2 and not explored.called
    assert "explore: error:" in capsys.readouterr().err
