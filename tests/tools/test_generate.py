"""tools/generate.py in this process."""

import pytest
import rasterio


def test_the_files_and_the_seams_are_printed(load_tool, generator_run, scenes, tmp_path, capsys):
    tool = load_tool("generate.py")
    config, checkpoint = map(str, generator_run)
    words = [config, str(tmp_path / "out"), "--checkpoint", checkpoint, "-n", "2", "--seed", "3"]
    words += ["--mask", str(scenes / "masks/first.tif"), "--top-k", "4", "--temperature", "0.5"]
    tool.main(words)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("at seams of windows" in line for line in lines)
    with rasterio.open(tmp_path / "out/first-generated-3-0001.tif") as source:
        assert source.shape == (70, 50) and source.tags()["GENERATOR_SAMPLING"] == (
            '{"temperature": 0.5, "top_k": 4}'
        )
    with pytest.raises(SystemExit) as caught:
        tool.main(words)
    assert caught.value.code == 1 and "--overwrite" in capsys.readouterr().err
