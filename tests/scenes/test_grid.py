import numpy as np
import pytest

from hook.errors import ConfigError
from hook.scenes import Window, WindowGrid

SIZES = [(1, 1), (7, 5), (37, 91), (64, 64), (65, 63), (1, 200)]


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("window", [1, 8, 16, 64, 100])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.99])
def test_covers_every_pixel_from_inside_the_scene(height, width, window, overlap):
    grid = WindowGrid(height, width, window, overlap)
    hits = np.zeros((height, width), int)
    for row, col, rows, cols in grid:
        assert 0 <= row and row + rows <= height and rows == min(window, height)
        assert 0 <= col and col + cols <= width and cols == min(window, width)
        hits[row : row + rows, col : col + cols] += 1
    assert hits.min() >= 1
    assert len(grid) == len(list(grid))


def test_windows_tile_the_scene_once_where_they_fit():
    grid = WindowGrid(64, 96, 32, 0)
    assert list(grid) == [Window(r, c, 32, 32) for r in (0, 32) for c in (0, 32, 64)]


def test_order_is_row_major_and_indexable():
    grid = WindowGrid(50, 70, 32, 0.25)
    windows = list(grid)
    assert windows == sorted(windows)
    assert grid[-1] == windows[-1] and grid[1:3] == windows[1:3]
    with pytest.raises(IndexError):
        grid[len(grid)]


def test_overlap_as_fraction_or_pixels():
    assert WindowGrid(500, 500, 64, 0.25).overlap == WindowGrid(500, 500, 64, 16).overlap == 16
    assert list(WindowGrid(500, 500, 64, 0.25)) == list(WindowGrid(500, 500, 64, 16))


@pytest.mark.parametrize(
    "arguments",
    [(0, 5, 8, 0), (5, -1, 8, 0), (5, 5, 0, 0), (5, 5, 8, 8), (5, 5, 8, -1), (5, 5, 8, 2.5)],
)
def test_impossible_grids_are_refused(arguments):
    with pytest.raises(ConfigError, match="expected"):
        WindowGrid(*arguments)


@pytest.mark.parametrize(
    ("window", "overlap", "says"),
    [("a", 0, "window"), (None, 0, "window"), (8, "x", "overlap"), (8, None, "overlap")],
)
def test_sizes_of_the_wrong_type(window, overlap, says):
    with pytest.raises(ConfigError, match=says):
        WindowGrid(9, 9, window, overlap)
