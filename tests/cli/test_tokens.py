"""``hook tokens`` in this process: pictures, exit status, messages."""

import numpy as np
import pytest
from PIL import Image

from hook.apis import load_model, show_attention, show_token_counts, show_tokens
from hook.cli import main


@pytest.fixture
def scene(scenes):
    """A scene that the model takes whole."""
    return scenes / "images" / "third.tif"


def _run(*argv):
    main(["tokens", *map(str, argv)])


@pytest.mark.parametrize(
    ("options", "show", "arguments"),
    [
        ([], show_tokens, {}),
        (["--num-tokens", "2"], show_tokens, {"num_tokens": 2}),
        (["--bidx", "1,2"], show_tokens, {"bidx": (1, 2)}),
        (["--attention", "1"], show_attention, {"token": 1}),
        (["--attention", "--at", "15", "20"], show_attention, {"at": (15, 20)}),
        (["--counts", "2,4"], show_token_counts, {"counts": (2, 4)}),
        (
            ["--counts", "1,3", "--at", "15", "20"],
            show_token_counts,
            {"counts": (1, 3), "at": (15, 20)},
        ),
    ],
)
def test_picture_is_that_of_the_function(
    seg_run, scene, tmp_path, capsys, options, show, arguments
):
    out = tmp_path / "tokens.png"
    _run(*seg_run, scene, out, *options)
    assert capsys.readouterr().err.endswith(f"{out}\n")
    expected = show(load_model(seg_run), scene, **arguments)
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(expected))


def test_files_are_replaced_only_where_asked(seg_run, scene, tmp_path, capsys):
    out = tmp_path / "tokens.png"
    out.write_bytes(b"mine")
    with pytest.raises(SystemExit) as caught:
        _run(*seg_run, scene, out)
    assert caught.value.code == 1 and out.read_bytes() == b"mine"
    assert "exists already" in capsys.readouterr().err
    _run(*seg_run, scene, out, "--overwrite", "--quiet")
    assert Image.open(out).format == "PNG"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("out", "options", "says"),
    [
        ("x.jpg", [], "written as PNG"),
        ("x.png", ["--at", "1", "1"], "add --attention or --counts"),
        ("x.png", ["--counts", "2", "--attention", "1"], "exclude each other"),
        ("x.png", ["--attention"], "--attention shows one token"),
        ("x.png", ["--attention", "1", "--at", "1", "1"], "one token is to be shown"),
        ("x.png", ["--attention", "4"], "no such token"),
        ("x.png", ["--attention", "--at", "1", "30"], "outside the image"),
        ("x.png", ["--counts", "2,9"], "1 to 4 tokens"),
        ("x.png", ["--num-tokens", "9"], "1 to 4 tokens"),
    ],
)
def test_bad_input_exits_with_one(seg_run, scene, tmp_path, capsys, out, options, says):
    with pytest.raises(SystemExit) as caught:
        _run(*seg_run, scene, tmp_path / out, *options)
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert says in message and message.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ["--counts", "2,x"],
        ["--counts", "0"],
        ["--attention", "-2"],
        ["--at", "1"],
        ["--num-tokens", "2", "--counts", "2"],
    ],
)
def test_bad_options_exit_with_two(options):
    with pytest.raises(SystemExit) as caught:
        _run("c", "k", "f", "o.png", *options)
    assert caught.value.code == 2


def test_attention_without_a_number_is_told_of_the_pixel(capsys):
    with pytest.raises(SystemExit) as caught:  # before it looks for any file
        _run("c", "k", "f", "o.png", "--attention")
    assert caught.value.code == 1
    assert "--attention --at ROW COL" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        _run("--attention", "c", "k", "f", "o.png")
    assert caught.value.code == 2
    assert "--at ROW COL" in capsys.readouterr().err
