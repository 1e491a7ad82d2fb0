"""What the hook shows of one sample; whole runs are in tests/tools/test_train.py."""

import numpy as np
import torch
from mmengine.structures import PixelData

from hook.geo.styles import distinct_palette
from hook.structures import ClsDataSample
from hook.visualization.drawing import TINT
from hook.visualization.hook import draw_panels, draw_sample, draw_tokens


def test_segmentation_panels():
    from mmseg.structures import SegDataSample

    sample = SegDataSample(
        pred_sem_seg=PixelData(data=torch.zeros(1, 16, 16, dtype=torch.int64)),
        gt_sem_seg=PixelData(data=torch.ones(1, 16, 16, dtype=torch.int64)),
        valid_mask=PixelData(data=torch.ones(1, 16, 16, dtype=torch.uint8)),
    )
    meta = {"classes": ("a", "b"), "palette": [[10, 20, 30], [200, 100, 50]]}
    picture = draw_sample(torch.rand(4, 16, 16), sample, meta, np.zeros((4, 4), int))
    left, right = np.split(picture, [picture.shape[1] // 2], axis=1)
    # Truth left of the middle, prediction right of it; the legend has both colours.
    assert (left == (200, 100, 50)).all(axis=2).sum() > 5000
    assert (right == (10, 20, 30)).all(axis=2).sum() > 5000


def test_classification_without_truth_or_tokens():
    sample = ClsDataSample(pred_label=1, pred_score=torch.tensor([0.2, 0.8]))
    picture = draw_sample(torch.rand(3, 16, 16), sample, {"classes": ("a", "b")}, None)
    assert picture.std() > 0


def test_token_map_covers_the_image_and_outlines_regions():
    tokens = np.array([[0, 0], [1, 1]])
    picture = draw_tokens(tokens, np.full((64, 64, 3), 90, np.uint8))
    assert picture.shape == (832, 832, 3)
    above, below = (np.array(colour) for colour in distinct_palette(2))
    # Each region has its line on its side of the border; inside, the image shows with a tint.
    assert (picture[416 - 3, 400] == above).all() and (picture[416 + 3, 400] == below).all()
    for row, colour in ((200, above), (600, below)):
        tinted = np.rint((1 - TINT) * 90 + TINT * colour)
        assert np.abs(picture[row, 400] - tinted).max() <= 1


def test_small_seeds_are_tinted_without_lines():
    tokens = np.arange(64)[:, None].repeat(64, axis=1) // 8
    tokens[::5, ::5] = 9
    picture = draw_tokens(tokens, np.full((256, 256, 3), 90, np.uint8))
    speck = np.rint((1 - TINT) * 90 + TINT * np.array(distinct_palette(10)[9]))
    middle = 1024 // 64 * 20 + 8
    assert np.abs(picture[middle, middle] - speck).max() <= 1


def test_panels_and_legend():
    picture = np.zeros((20, 20, 3), np.uint8)
    drawn = draw_panels([("a", picture), ("b", picture)], "title", [("field", (0, 200, 0))])
    assert drawn.ndim == 3
    assert drawn.shape[1] > drawn.shape[0]
    assert (drawn == (0, 200, 0)).all(axis=2).any()  # the legend
