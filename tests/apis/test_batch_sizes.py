"""The class of a pixel does not depend on how many windows share a pass of the model."""

import numpy as np
import pytest
import rasterio
import torch

from hook.apis import SceneMapper
from hook.inference.windows import WindowPredictor
from hook.scenes.layers import ClassLayer

SIDE = 32
BATCHES = (1, 3, 4)
# Two best scores of a pixel this close are tied: float32 sums of another order may swap them.
TIED = 1e-5


@pytest.fixture
def scene(write_scene):
    """A scene of 2 x 4 windows: the last batch of three lacks one."""
    rng = np.random.default_rng(0)
    height, width = 2 * SIDE, 4 * SIDE
    truth = np.add.outer(np.arange(height), np.arange(width)) // 17 % 3
    values = truth[None] * 80 + 40 + rng.integers(0, 60, (2, height, width))
    return write_scene(values.astype(np.uint16))


@pytest.fixture
def windows_seen(monkeypatch):
    """Windows and their scores, as the model answers them, batch by batch."""
    answers = []
    answer = WindowPredictor.__call__

    def remember(self, windows, valid):
        scores = answer(self, windows, valid)
        answers.append((windows.copy(), scores.copy()))
        return scores

    monkeypatch.setattr(WindowPredictor, "__call__", remember)
    return answers


@pytest.fixture
def rows_seen(monkeypatch):
    """First rows and blended scores of what classes are decided from."""
    rows = []
    encode = ClassLayer.encode

    def remember(self, block):
        rows.append((block.row_off, block.scores.copy()))
        return encode(self, block)

    monkeypatch.setattr(ClassLayer, "encode", remember)
    return rows


@pytest.fixture
def map_in_batches(seg_run, scene, tmp_path):
    """A function that maps the scene in batches of some windows and returns the classes."""
    threads = torch.get_num_threads()
    mapper = SceneMapper(seg_run, threads=1)

    def run(batch, **options):
        output = tmp_path / f"{batch}.tif"
        mapper.map(scene, output, batch_size=batch, progress=False, **options)
        with rasterio.open(output) as result:
            return result.read(1)

    yield run
    torch.set_num_threads(threads)


def assert_same_but_for_ties(classes, scores, reference, its_scores):
    """Compare classes (H, W), and the float scores (K, H, W) that they were decided from."""
    # A mean over the batch, or another window's scores, would be far from rounding.
    assert np.abs(scores - its_scores).max() < TIED
    ordered = np.sort(its_scores, axis=0)
    tied = ordered[-1] - ordered[-2] <= TIED
    assert tied.mean() < 0.01  # else the next line compares nothing
    np.testing.assert_array_equal(classes[~tied], reference[~tied])
    for row, column in np.argwhere(classes != reference):
        pair = its_scores[[classes[row, column], reference[row, column]], row, column]
        assert ordered[-1, row, column] - pair.min() <= TIED


def test_classes_of_windows_change_at_ties_only(map_in_batches, scene, windows_seen):
    """Without overlap the scores of a pixel are what the model said of the window around it."""
    with rasterio.open(scene) as source:
        image = source.read()
    places = {}
    for row in range(0, image.shape[1], SIDE):
        for column in range(0, image.shape[2], SIDE):
            window = image[:, row : row + SIDE, column : column + SIDE]
            places[window.tobytes()] = slice(row, row + SIDE), slice(column, column + SIDE)
    assert len(places) == 8
    found = []
    for batch in BATCHES:
        windows_seen.clear()
        classes = map_in_batches(batch, overlap=0)
        assert {len(windows) for windows, _ in windows_seen} == {batch}
        scores = np.full((3, *classes.shape), np.nan, np.float32)
        for windows, answers in windows_seen:
            for window, answer in zip(windows, answers, strict=True):
                scores[:, *places[window.tobytes()]] = answer
        np.testing.assert_array_equal(classes, scores.argmax(axis=0))
        found.append((classes, scores))
    assert len(np.unique(found[0][0])) > 1
    for classes, scores in found[1:]:
        assert_same_but_for_ties(classes, scores, *found[0])


def test_classes_of_blended_windows_change_at_ties_only(map_in_batches, rows_seen):
    found = []
    for batch in BATCHES:
        rows_seen.clear()
        classes = map_in_batches(batch, overlap=0.5)
        scores = np.full((3, *classes.shape), np.nan, np.float32)
        for row, values in rows_seen:
            scores[:, row : row + values.shape[1]] = values
        np.testing.assert_array_equal(classes, scores.argmax(axis=0))
        found.append((classes, scores))
    assert len(np.unique(found[0][0])) > 1
    for classes, scores in found[1:]:
        assert_same_but_for_ties(classes, scores, *found[0])
