"""Small objects and thin parts of masks whose sizes are known."""

import numpy as np

from hook.evaluation.details import small_objects, thin_parts


def blank():
    return np.zeros((80, 100), bool)


def test_small_objects_are_whole_components_of_a_size():
    mask, small = blank(), blank()
    small[10:20, 10:26] = True  # 160 pixels
    mask[40:60, 40:60] = True  # 400
    mask[0:5, 70:75] = True  # cut by the border: of unknown size
    np.testing.assert_array_equal(small_objects(mask | small, 160), small)
    assert not small_objects(mask | small, 159).any()


def test_thin_parts_are_as_wide_as_asked_and_no_corners():
    for width in (3, 4, 7, 8):
        mask = blank()
        mask[10 : 10 + width, 5:95] = True
        np.testing.assert_array_equal(thin_parts(mask, width), mask)
        assert not thin_parts(mask, width - 1).any()
    block = blank()
    block[20:60, 20:60] = True
    road = blank()
    road[38:42, 60:95] = True
    found = thin_parts(block | road, 6)
    assert found[road].mean() > 0.9 and not found[block].any()


def test_a_strip_that_the_border_cuts_is_not_thin():
    mask = blank()
    mask[:4, :] = True
    assert not thin_parts(mask, 6).any()
