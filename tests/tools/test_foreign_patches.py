"""foreign_patches: where patches are pasted, and scores that are known."""

import json

import numpy as np
import pytest
import torch

from hook.apis import load_model
from hook.engine.configs import setup_environment


@pytest.fixture(scope="module")
def tool(load_tool):
    setup_environment()
    return load_tool("analysis_tools/foreign_patches.py")


def test_patches_of_all_kinds_have_the_same_places(tool):
    own = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(16, 2).repeat(16, 3)
    foreign = np.full((3, 1, 20, 20), 100, np.uint8)
    files = ["a", "a", "b", "c"]
    chips = tool.paste(own, files, foreign, 6, seed=0)
    assert (chips.pasted.sum(axis=(1, 2)) == 36).all()
    assert np.array_equal(chips.images["foreign"][:, 0] == 100, chips.pasted)
    assert np.array_equal(chips.images["nothing"], own)
    for number, image in enumerate(chips.images["control"][:, 0]):
        inside, outside = image[chips.pasted[number]], image[~chips.pasted[number]]
        assert (outside == number).all() and len({*inside}) == 1 and inside[0] != number
    assert chips.images["control"][0, 0][chips.pasted[0]][0] == 1  # of the same file
    with pytest.raises(tool.ConfigError, match="1 bands of uint16"):
        tool.paste(own, files, foreign.astype(np.uint16), 6, seed=0)
    inner = tool.paste(own, files, foreign, 6, seed=0, edges=(5, 4)).pasted
    assert inner.any() and not inner[:, :5].any() and not inner[:, 11:].any()
    assert not inner[:, :, :4].any() and not inner[:, :, 12:].any()
    again = tool.paste(own, files, foreign, 6, seed=1)
    assert not np.array_equal(again.pasted, chips.pasted)


def test_positions_by_the_seam_do_not_count(tool):
    pasted = np.zeros((1, 24, 24), bool)
    pasted[0, 6:18, 4:16] = True  # rows from the middle of a code, columns from its start
    inside, outside = tool.sides(pasted, (4, 4), 0)
    assert inside.sum() == 2 * 3 and outside.sum() == 36 - 4 * 3
    assert inside[0, 2:4, 1:4].all()
    inner = tool.sides(pasted, (4, 4), 0, (2, 1))
    assert inner[0].sum() == 2 * 3 and inner[1].sum() == 2 * 4 - 2 * 3
    inside, outside = tool.sides(pasted, (4, 4), 1)
    assert not inside.any() and outside.sum() == 6 * 1 and outside[0, :, 5].all()


def test_an_auc_within_chips_is_that_of_ranks(tool):
    inside, outside = np.zeros((2, 2, 2, 2), bool)
    inside[0, 0], outside[0, 1] = True, True
    found = tool.measure(np.array([[[1.0, 4.0], [2.0, 3.0]]] * 2), inside, outside)
    assert found[0] == 0.5 and np.isnan(found[1])
    found = tool.measure(np.array([[[3.0, 4.0], [1.0, 3.5]]] * 2), inside, outside)
    assert found[0] == 0.75


def test_latents_of_the_memory_have_no_distance(tool, generator_run):
    generator = load_model(generator_run)
    chips = np.random.default_rng(0).integers(0, 255, (3, 2, 32, 32)).astype(np.uint8)

    class Bar:
        def update(self, count):
            self.count = count

    bar = Bar()
    scorer = tool.Scorer(generator, chips[:2], 10**6, seed=0)
    scores = scorer(chips, bar)
    assert bar.count == 3 and {*scores} == {*tool.SCORES}
    assert all(one.shape == (3, 8, 8) and np.isfinite(one).all() for one in scores.values())
    assert scores["distance"][:2].max() < 1e-2 < scores["distance"][2].mean()
    with torch.no_grad():
        inputs = generator.data_preprocessor(dict(inputs=torch.from_numpy(chips)))["inputs"]
        error = (generator.codec(inputs, mode="tensor") - inputs).square().mean(dim=1)
    expected = error.unflatten(1, (8, 4)).unflatten(3, (8, 4)).mean(dim=(2, 4))
    np.testing.assert_allclose(scores["error"], expected, rtol=1e-3, atol=1e-5)


def test_a_table_of_both_kinds_of_patches(tool, generator_run, tmp_path, capsys):
    config, checkpoint = generator_run
    arguments = [config, checkpoint, "--foreign", config, "--side", 32, "--patch", 16]
    arguments += ["--edge", 0]
    arguments += ["--chips", 5, "--memory", 4, "--margin", 0, "--json", tmp_path / "report.json"]
    tool.main([*map(str, arguments)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["pasted"] for row in report["rows"]] == ["foreign", "control", "nothing"]
    means = report["rows"][1]["means"]["surprise"]
    means = [means[key] for key in ("mean", "low", "high")]
    assert "{:.3f} [{:.3f}, {:.3f}]".format(*means) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tool.main([*map(str, arguments[:-4]), "--margin", "3"])
    assert "no position is inside a patch" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main([*map(str, arguments), "--side", "30", "--patch", "8"])
    assert "--side does not fit the codes" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # options are of the model, too
        tool.main([*map(str, arguments), "--cfg-options", "model.network.depth=7"])
    assert "does not fit the model of the config" in capsys.readouterr().err
