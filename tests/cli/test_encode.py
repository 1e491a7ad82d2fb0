"""``hook encode`` and ``hook decode`` in this process."""

import numpy as np
import pytest
import rasterio

from hook.cli import main


def _run(*argv):
    main([*map(str, argv)])


def test_a_scene_to_codes_and_back(codec_run, scenes, tmp_path, capsys):
    scene, codes, out = scenes / "images/second.tif", tmp_path / "c.tif", tmp_path / "o.tif"
    _run("encode", *codec_run, scene, codes, "--dry-run")
    assert capsys.readouterr().out.startswith("windows") and not list(tmp_path.iterdir())
    _run("encode", *codec_run, scene, codes, "--max-error", "1000", "--co", "COMPRESS=LZW")
    lines = capsys.readouterr().err.splitlines()
    assert "bits per pixel" in lines[0] and [line.split()[0] for line in lines[1:]] == [
        "red:",
        "nir:",
    ]
    model = ("--model", codec_run[0], "--checkpoint", codec_run[1])
    _run("decode", codes, out, *model, "--quiet")
    with rasterio.open(scene) as source, rasterio.open(out) as result:
        assert result.descriptions == ("red", "nir") and result.shape == source.shape
        assert np.array_equal(result.read(1) == 0, source.dataset_mask() == 0)
        left, bottom, right, top = source.bounds
    assert capsys.readouterr().err == ""
    box = (left, bottom, (left + right) / 2, top)
    _run("decode", codes, tmp_path / "p.tif", *model, "--bounds", *box, "-q")
    with rasterio.open(tmp_path / "p.tif") as part, rasterio.open(out) as whole:
        assert np.array_equal(part.read(), whole.read()[:, :, : part.width])
    _run("decode", codes, out, *model, "--resume", "-q")
    assert "finished already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["decode", "none.tif", "out.tif"], 1, "none.tif"),
        (["decode", "codes.tif", "out.tif", "--bounds", "1"], 2, "--bounds"),
        (["encode", "c", "k", "in.tif", "out.tif", "--max-error", "-1"], 2, "--max-error"),
        (["encode", "c", "k", "in.tif", "out.png"], 1, "out.png"),
        (["encode", "c", "k", "in.tif", "out.tif", "--entropy"], 1, ".hkc"),
        (
            ["encode", "c", "k", "in.tif", "o.hkc", "--entropy-checkpoint", "k"],
            1,
            "--entropy CONFIG",
        ),
        (["decode", "in.hkc", "o.tif", "--entropy-checkpoint", "k"], 1, "--entropy CONFIG"),
    ],
)
def test_bad_options(words, status, message, capsys):
    with pytest.raises(SystemExit) as caught:
        _run(*words)
    assert caught.value.code == status and message in capsys.readouterr().err
