"""Data elements that travel between datasets, models and metrics."""

from dataclasses import dataclass

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from hook.tokenizers import SeedMap, TokenizerOutput, mean_colours, spread_cells


class ClsDataSample(BaseDataElement):
    """One image of a scene-classification batch.

    Fields (set by datasets, the classifier, or neither):
        gt_label (int): Index of the true class.
        gt_score (torch.Tensor): (K,) soft target, present after mixup or cutmix.
        pred_label (int): Index of the predicted class.
        pred_score (torch.Tensor): (K,) class probabilities.
        valid_mask (mmengine.structures.PixelData): (1, H, W) uint8, one where there are data.
        tokens (ImageTokens): The tokens that the prediction was made from.

    Meta fields: ``img_path``, ``img_shape``, ``ori_shape``, ``sample_idx``, and ``resolution``,
    metres per pixel, where it is known.
    """


@dataclass
class ImageTokens:
    """The tokens of one image as the model used them: ``tokens`` of the data samples it returns.

    Whoever draws, measures or writes tokens reads them here.

    Attributes:
        output: The tokenizer's output for this image alone, a batch of one.
        embeddings: (N, D) tokens after the last block, class token left out.
        seeds: Seeds of this image alone; None of a tokenizer without.
        image: (C, H', W') the image as the tokenizer got it: normalised and padded.
        image_valid: (H', W') bool, what the tokenizer was told of it; None: nothing.
        valid: (H', W') bool, where the image has data; None: everywhere.
        size: Height and width of the image before it was padded; None: those of ``image``.
    """

    output: TokenizerOutput
    embeddings: Tensor
    seeds: SeedMap | None
    image: Tensor
    image_valid: Tensor | None = None
    valid: Tensor | None = None
    size: tuple[int, int] | None = None

    @property
    def num_tokens(self) -> int:
        """Number of tokens N that the model used, the class token not counted."""
        return self.output.num_tokens

    def token_map(self, everywhere: bool = False) -> np.ndarray:
        """Give each pixel the token that owns it.

        Args:
            everywhere: Also where the image has no data.

        Returns:
            (H, W) int64, -1 where the image has no data.
        """
        return self.spread(self.output.token_map()[0], everywhere)

    def spread(self, cells: Tensor, everywhere: bool = False) -> np.ndarray:
        """Give each pixel the value of its cell.

        Args:
            cells: (h, w) integers on the tokenizer's grid.
            everywhere: Also where the image has no data.

        Returns:
            (H, W) int64, -1 where the image has no data.
        """
        pixels = spread_cells(cells, tuple(self.image.shape[-2:]), self.output.cell).cpu()
        if self.valid is not None and not everywhere:
            pixels = pixels.masked_fill(~self.valid.cpu(), -1)
        height, width = self.size or pixels.shape
        return pixels[:height, :width].to(torch.int64).numpy()

    def colours(self) -> Tensor:
        """Take the mean normalised bands of each cell, (C, h, w)."""
        known = ~self.image.isnan().any(dim=0)
        if self.image_valid is not None:
            known = known & self.image_valid
        image, output = self.image.nan_to_num()[None], self.output
        return mean_colours(image, output.cell, output.grid_size, known[None])[0]
