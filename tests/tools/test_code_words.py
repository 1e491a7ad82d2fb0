"""code_words: phrases, layout of sequences, and tiny runs of all parts on random tiles."""

import json

import numpy as np
import pytest
import torch

from hook.datasets.named import EuroSATRGB
from hook.engine.configs import setup_environment

OPTIONS = ("--steps", "4", "--lm-steps", "4", "--turns", "2", "--interval", "1")
OPTIONS += ("--batch-size", "4", "--segment", "4", "--tested", "3", "--drawn", "1", "--amp")
OPTIONS += ("--cfg-options", "model.quantizer.codebook_size=16", "model.encoder.embed_dims=16")
OPTIONS += ("model.decoder.embed_dims=16",)


@pytest.fixture(scope="module")
def tool(load_tool):
    setup_environment()
    return load_tool("analysis_tools/code_words.py")


@pytest.fixture
def data(eurosat_tiles):
    return eurosat_tiles


def test_the_kept_out_phrasing_has_known_words_only(tool):
    phrases = tool.Phrases(EuroSATRGB.class_names)
    known = {
        number
        for phrasing in tool.PHRASINGS
        for label in range(10)
        for number in phrases(phrasing, label)
    }
    for label in range(10):
        found = phrases(tool.KEPT_OUT, label)
        assert {*found} <= known and found[-1] == tool.STOP and len(found) <= phrases.longest
    text = " ".join(phrases.words[number] for number in phrases(tool.KEPT_OUT, 8)[:-1])
    assert text == "a view of a river from above"


def test_tiles_of_uc_merced(tool, shared_data, tmp_path):
    folder = shared_data / "classification" / "ucmerced_75"
    images, names = tool.read_merced(folder, "test", 64)
    assert len(images) == 315 and {*names} == {*tool.MERCED}
    assert {image.shape for image in images} == {(64, 64, 3)}
    lists = [path.read_text() for path in tool.LISTS.glob("*.txt")]
    assert sum(len(text.split()) for text in lists) == 1575 + 3 * 21
    with pytest.raises(tool.DataError, match="315 images are missing"):
        tool.read_merced(tmp_path, "test", 64)
    right, labels = torch.tensor([True, False, True, True]), torch.tensor([0, 9, 10, 30])
    assert tool.by_set("found", right, labels) == {"found": 50, "found_merced": 100}


def test_answers_are_phrases_after_tiles_or_tiles_after_phrases(tool):
    phrases = tool.Phrases(EuroSATRGB.class_names)
    layout = tool.CodeLayout(len(phrases.words), 16)
    codes = torch.arange(8).view(1, 4, 2)
    pairs = tool.Pairs(phrases, layout, codes, torch.tensor([3]))
    phrase = phrases(tool.PHRASINGS[0], 3)
    image = [layout.begin, *(codes.flatten() + layout.words).tolist(), layout.end]
    ids, answer = pairs.joined(pairs.images[0], phrase, True)
    assert ids[: len(image)].tolist() == image and ids[answer].tolist() == phrase
    ids, answer = pairs.joined(pairs.images[0], phrase, False)
    assert ids[answer].tolist() == image and ids[: len(phrase) - 1].tolist() == phrase[:-1]
    # Whatever stands after the answer changes nothing, and a uniform model needs log(size).
    model = tool.WordModel(len(layout), pairs.length, 8, embed_dims=24, depth=1, num_heads=2)
    with torch.no_grad():
        model.head.weight.zero_(), model.head.bias.zero_()
        mean, _ = tool.answer_nats(model, ids[None], answer[None])
    assert float(mean) == pytest.approx(np.log(len(layout)), abs=1e-5)


def test_drawn_codes_follow_the_model(tool):
    torch.manual_seed(0)
    layout = tool.CodeLayout(5, 16)
    model = tool.WordModel(len(layout), 40, 8, embed_dims=24, depth=2, num_heads=2).eval()
    codes = tool.draw_codes(model, layout, [1, 2, tool.STOP], (4, 2), 3)
    assert codes.shape == (3, 4, 2) and 0 <= codes.min() and codes.max() < 16
    # The cache gives the logits of the whole sequence.
    ids = torch.tensor([[1, 2, layout.begin, *(codes[0].flatten() + 5).tolist()]])
    caches = [tool.Cache() for _ in model.blocks]
    with torch.no_grad():
        whole = model(ids)
        parts = [model(ids[:, :3], caches=caches)]
        parts += [model(ids[:, k : k + 1], caches=caches) for k in range(3, ids.shape[1])]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


def test_runs_are_measured_once(tool, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "FROZEN", dict(tool.FROZEN, weights=None))
    command = ["words", "centroids", "--weights", "1", "0", "--data", str(data)]
    command += ["--out", str(tmp_path), *OPTIONS]
    assert tool.main(command) == 0
    results = {
        path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")
    }
    pooled = results.pop("pooled-1_seed0")
    assert set(results) == {"none-1_seed0", "words-0_seed0", "centroids-0_seed0"}
    for name, one in results.items():
        assert 0 < one["psnr"] < 40 and 0 < one["use"] <= 100 and 0 <= one["drawn_right"] <= 100
        assert one["nats"] > 0 and 0 < one["decompression_sums"] < 2 * np.log(16)
        assert 0 <= one["decoded_right"] <= 100
        if "-0_" in name:  # the table is the anchors
            assert one["cosine"] == pytest.approx(1, abs=1e-3)
        assert ("cosine" in one) == ("-0_" in name)
    assert {"recognised_trained", "recognised_kept_out", "classifier"} < {*pooled}
    table = (tmp_path / "table.md").read_text()
    assert table.count("| words |") == table.count("| none |") == 2  # runs, and means
    assert f"| words | 0 | 1 | {results['words-0_seed0']['nats']:.2f} |" in table
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert tool.main(command) == 0
    assert tool.main([*command, "--drawn", "2"]) == 1
    assert "refused: a finished run with other options" in capsys.readouterr().err
    assert files == {path: path.stat().st_mtime_ns for path in files}
    with pytest.raises(SystemExit):
        tool.main([*command, "--segment", "5"])
    assert "--segment does not divide" in capsys.readouterr().err
    for never in (("--turns", "1"), ("--turns", "0"), ("--interval", "3")):
        with pytest.raises(SystemExit):
            tool.main([*command, *never])
        assert "never drawn towards their anchors" in capsys.readouterr().err


def test_classes_are_those_of_the_tile_s_own_data_set(tool):
    found = tool.of_other_set(torch.tensor([3, 12]), 31)
    assert found[0].tolist() == [False] * 10 + [True] * 21 and (found[0] != found[1]).all()
    assert not tool.of_other_set(torch.tensor([9]), 10).any()
    chosen = tool.some_of(torch.zeros(50), 7)
    assert len({*chosen.tolist()}) == 7 and torch.equal(chosen, tool.some_of(torch.zeros(50), 7))
