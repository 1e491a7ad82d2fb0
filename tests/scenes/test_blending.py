import numpy as np
import pytest

from hook.errors import SceneError
from hook.scenes import RowBlender, WindowGrid
from hook.scenes.blending import blend_profile


def blend_scene(scene, grid, valid=None, blend="hann"):
    """All windows cut from a scene of scores (K, H, W), blended back."""
    blocks = []

    def emit(block):
        blocks.append((block.row_off, block.scores.copy(), block.valid.copy()))

    blender = RowBlender(grid, len(scene), emit, blend)
    valid = np.ones(scene.shape[1:], bool) if valid is None else valid
    for window in grid:
        row, col, rows, cols = window
        area = np.s_[row : row + rows, col : col + cols]
        blender.add(window, scene[(slice(None), *area)], valid[area])
    blender.finish()
    offsets = [offset for offset, _, _ in blocks]
    assert offsets == list(np.cumsum([0, *(len(v) for _, _, v in blocks[:-1])]))
    return np.concatenate([b[1] for b in blocks], 1), np.concatenate([b[2] for b in blocks])


@pytest.mark.parametrize("blend", ["hann", "mean", "crop"])
@pytest.mark.parametrize("window, overlap", [(1, 0), (2, 1), (7, 3), (64, 63), (512, 128)])
def test_weights_are_symmetric_and_never_zero(blend, window, overlap):
    weights = blend_profile(window, overlap, blend)
    assert weights.dtype == np.float32 and len(weights) == window
    assert weights.min() > 0 and np.outer(weights, weights).min() > 0
    np.testing.assert_array_equal(weights, weights[::-1])


def test_hann_weights_of_neighbours_add_up_to_one():
    weights = blend_profile(64, 16)
    np.testing.assert_allclose(weights[-16:] + weights[:16], 1, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (37, 91), (64, 64), (130, 70)])
@pytest.mark.parametrize("window", [1, 8, 33, 64, 200])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("blend", ["hann", "mean", "crop"])
def test_agreeing_windows_come_out_bit_for_bit(size, window, overlap, blend):
    if window == 1 and size[0] * size[1] > 1000:
        size = (13, 11)
    scene = np.random.default_rng(1).random((3, *size)).astype(np.float32)
    blended, valid = blend_scene(scene, WindowGrid(*size, window, overlap), blend=blend)
    np.testing.assert_array_equal(blended, scene)
    assert valid.all()


def test_disagreeing_windows_give_their_weighted_mean():
    grid = WindowGrid(50, 61, 16, 5)
    rng = np.random.default_rng(2)
    profile = blend_profile(16, 5)
    weights = np.outer(profile, profile).astype(np.float64)
    total, weight = np.zeros((2, 50, 61)), np.zeros((50, 61))
    blocks = []
    blender = RowBlender(grid, 2, lambda block: blocks.append(block.scores.copy()))
    for window in grid:
        row, col, rows, cols = window
        scores = rng.random((2, 16, 16)).astype(np.float32)
        total[:, row : row + rows, col : col + cols] += weights * scores
        weight[row : row + rows, col : col + cols] += weights
        blender.add(window, scores, np.ones((rows, cols), bool))
    blender.finish()
    np.testing.assert_allclose(np.concatenate(blocks, 1), total / weight, atol=2e-6)


def test_validity_is_carried():
    valid = np.random.default_rng(3).random((40, 40)) > 0.5
    _, carried = blend_scene(np.ones((1, 40, 40), np.float32), WindowGrid(40, 40, 16, 4), valid)
    np.testing.assert_array_equal(carried, valid)


def test_memory_is_one_row_of_windows():
    low, high = (
        RowBlender(WindowGrid(height, 100, 32, 8), 3, print).nbytes for height in (64, 64000)
    )
    assert low == high == 32 * 100 * (4 * 3 + 5)


def test_a_missed_window_is_an_error():
    grid = WindowGrid(40, 40, 16, 0)
    for missed in range(len(grid)):
        blender = RowBlender(grid, 1, lambda block: None)
        with pytest.raises(SceneError, match="not every pixel was mapped"):
            for index, window in enumerate(grid):
                if index != missed:
                    blender.add(window, np.ones((1, 16, 16), np.float32), np.ones((16, 16), bool))
            blender.finish()


def test_scores_that_are_not_finite_are_an_error_only_where_valid():
    grid = WindowGrid(8, 8, 8, 0)
    scores = np.ones((2, 8, 8), np.float32)
    scores[1, 3, 3] = np.nan
    valid = np.ones((8, 8), bool)
    with pytest.raises(SceneError, match="not finite"):
        blend_scene(scores, grid, valid)
    valid[3, 3] = False
    assert not blend_scene(scores, grid, valid)[1][3, 3]


def test_windows_out_of_order_and_unknown_blends_are_refused():
    grid = WindowGrid(40, 8, 8, 0)
    blender = RowBlender(grid, 1, lambda block: None)
    blender.skip(grid[1]._replace(row_off=0))
    blender.skip(grid[1])
    with pytest.raises(SceneError, match="out of order"):
        blender.skip(grid[0])
    with pytest.raises(SceneError, match="hann or mean or crop"):
        RowBlender(grid, 1, print, "linear")
