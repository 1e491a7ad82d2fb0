"""Transforms of sample dictionaries: units, augmentation, packing."""

import mmcv.transforms  # noqa: F401 - registers Resize, RandomFlip, ...

from hook.datasets.transforms.augmentation import Albumentations
from hook.datasets.transforms.changes import ChangeImage
from hook.datasets.transforms.packing import PackClsSample, PackSegSample
from hook.datasets.transforms.scaling import ScaleBands

__all__ = ["Albumentations", "ChangeImage", "PackClsSample", "PackSegSample", "ScaleBands"]
