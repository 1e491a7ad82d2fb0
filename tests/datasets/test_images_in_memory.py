"""ImagesInMemory: the crops and flips of a batch."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import PixelData

from hook.datasets import ImagesInMemory
from hook.errors import ConfigError
from hook.registry import DATASETS
from hook.structures import ClsDataSample


@DATASETS.register_module(force=True)
class _Fixed(BaseDataset):
    def __init__(self, images, valid=1):
        self.arrays, self.valid = images, valid

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        sample = ClsDataSample(metainfo=dict(number=index))
        mask = torch.full((1, *self.arrays[index].shape[1:]), self.valid, dtype=torch.uint8)
        sample.valid_mask = PixelData(data=mask)
        return dict(inputs=self.arrays[index], data_samples=sample)


def _images(count=3, size=(7, 9)):
    return list(
        torch.arange(count * 2 * size[0] * size[1], dtype=torch.uint8).view(count, 2, *size)
    )


def test_a_batch_is_a_random_crop_of_reflected_images_and_flips():
    torch.manual_seed(0)
    images = _images()
    data = ImagesInMemory(dict(type="_Fixed", images=images), padding=2, labels=True)
    seen = set()
    for _ in range(60):
        for number, one in zip((2, 0), data.__getitems__([2, 0]), strict=True):
            assert one["data_samples"].number == number
            array = images[number].permute(1, 2, 0).numpy()
            padded = cv2.copyMakeBorder(array, 2, 2, 2, 2, cv2.BORDER_REFLECT_101)
            crops = {
                crop[:: 1 - 2 * up, :: 1 - 2 * left].transpose(2, 0, 1).tobytes(): (y, x, up, left)
                for y in range(5)
                for x in range(5)
                for crop in [padded[y : y + 7, x : x + 9]]
                for up in (0, 1)
                for left in (0, 1)
            }
            seen.add(crops[np.ascontiguousarray(one["inputs"].numpy()).tobytes()])
    assert {place[0] for place in seen} == set(range(5))
    assert {place[2:] for place in seen} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_without_draws_images_stay_as_they_are():
    images = _images()
    data = ImagesInMemory(dict(type="_Fixed", images=images), padding=0, flip=False)
    assert torch.equal(data[1]["inputs"], images[1]) and len(data) == 3
    assert "data_samples" not in data[1]


@pytest.mark.parametrize(
    "options", [dict(images=_images() + _images(1, (8, 9))), dict(images=_images(), valid=0)]
)
def test_images_that_differ_are_refused(options):
    with pytest.raises(ConfigError, match="images in memory"):
        ImagesInMemory(dict(type="_Fixed", **options))
