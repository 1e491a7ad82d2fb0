"""Transforms of sample dictionaries: units, augmentation, packing.

Importing :mod:`mmcv.transforms` here makes mmcv's own transforms (``Resize``, ``RandomFlip`` ...)
known wherever ours are.
"""

import mmcv.transforms  # noqa: F401

from hook.datasets.transforms.augmentation import Albumentations
from hook.datasets.transforms.packing import PackClsSample, PackSegSample
from hook.datasets.transforms.scaling import ScaleBands

__all__ = ["Albumentations", "PackClsSample", "PackSegSample", "ScaleBands"]
