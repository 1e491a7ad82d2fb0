"""Small images in memory, a batch at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from hook.errors import ConfigError
from hook.registry import DATASETS


@DATASETS.register_module()
class ImagesInMemory(Dataset):
    """The images of a data set as one tensor: for a small network on a GPU, which waits for files.

    They are read once. Crops and flips are drawn for a whole batch, on the device of the images,
    from PyTorch's global state: set ``num_workers=0`` in the data loader.

    Args:
        dataset: Config of the data set. Its images have one size, and no invalid pixels.
        padding: Images are shifted by up to so many pixels, and the border reflected: a random
            crop after padding.
        flip: Flip half of the images in each direction.
        labels: Give ``data_samples`` beside ``inputs``; moving them to a GPU takes longer than the
            images do.
        device: Where the images are kept.

    Raises:
        ConfigError: Images differ in size or have invalid pixels.
    """

    def __init__(
        self,
        dataset: dict,
        padding: int = 4,
        flip: bool = True,
        labels: bool = False,
        device: str = "cpu",
    ) -> None:
        self.dataset: BaseDataset = DATASETS.build(dataset)
        self.padding, self.flip, self.labels = padding, flip, labels
        packed = [self.dataset[i] for i in tqdm(range(len(self.dataset)), desc="reading images")]
        shapes = {tuple(one["inputs"].shape) for one in packed}
        masks = [one["data_samples"].get("valid_mask") for one in packed]
        masked = sum(mask is not None and not mask.data.all() for mask in masks)
        if len(shapes) > 1 or masked:
            raise ConfigError(
                "images in memory need one size, and all their pixels",
                expected="images of one size without invalid pixels",
                found=f"sizes {sorted(shapes)[:3]}, {masked} images with invalid pixels",
                remedy="train from files",
            )
        self.samples = [one["data_samples"] for one in packed]
        self.images = torch.stack([one["inputs"] for one in packed]).to(device)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        """Return an image."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indexes: Sequence[int]) -> list[dict]:
        """Return the images of a batch."""
        images = self.images[torch.as_tensor(indexes, device=self.images.device)]
        places = [self._places(len(indexes), size) for size in images.shape[-2:]]
        rows, columns = (place.to(images.device, non_blocking=True) for place in places)
        images = images.gather(2, rows[:, None, :, None].expand_as(images))
        images = images.gather(3, columns[:, None, None, :].expand_as(images))
        if not self.labels:
            return [dict(inputs=image) for image in images]
        samples = (self.samples[index] for index in indexes)
        return [
            dict(inputs=image, data_samples=sample)
            for image, sample in zip(images, samples, strict=True)
        ]

    def _places(self, count: int, size: int) -> Tensor:
        """Return the (B, size) rows or columns of each image, shifted, reflected and flipped."""
        shift = torch.randint(-self.padding, self.padding + 1, (count, 1))
        places = (torch.arange(size) + shift).abs()
        places = torch.where(places < size, places, 2 * (size - 1) - places)
        flipped = torch.rand(count, 1) < 0.5
        return places.flip(1).where(flipped, places) if self.flip else places
