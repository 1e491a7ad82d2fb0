"""Data elements passed between datasets, models and metrics."""

from dataclasses import dataclass

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from hook.tokenizers import SeedMap, TokenizerOutput, mean_colours, spread_cells


class ClsDataSample(BaseDataElement):
    """Data sample of scene classification.

    Fields, all optional:
        gt_label (int): Index of the true class.
        gt_score (torch.Tensor): (K,) soft target, after mixup or cutmix.
        pred_label (int): Index of the predicted class; absent for a blank image.
        pred_score (torch.Tensor): (K,) class probabilities; NaN for a blank image.
        valid_mask (mmengine.structures.PixelData): (1, H, W) uint8, 1 where the image has data.
        tokens (ImageTokens): Tokens of the prediction.

    Meta fields: ``img_path``, ``img_shape``, ``ori_shape``, ``sample_idx``, ``resolution`` (metres
    per pixel), ``dates`` (days, of a time series) and ``wavelengths`` (nanometres, of the bands) if
    known, and ``blank`` (True) for an image without a valid pixel.
    """


class CodecDataSample(BaseDataElement):
    """Data sample of an image that is encoded and decoded again.

    Fields, all optional:
        image (torch.Tensor): (C, H, W) original in the units of the scene, or (T, C, H, W).
        reconstruction (torch.Tensor): The decoded image in the same units.
        codes (torch.Tensor): (h, w) or (h, w, Q) int64 codes; absent for continuous latents. Of a
            time series (1, N) or (1, N, Q), of the patches with data.
        places (torch.Tensor): (N, 4) date, row, column and band group of these patches.
        bits (torch.Tensor): Minus the binary logarithm of the probability that a generator gives to
            each of the codes.
        latents (torch.Tensor): (D, h, w) latents that the decoder got.
        valid_mask (torch.Tensor): (H, W) or (T, H, W) bool, where the image has data; absent:
            everywhere.

    Meta fields: those of :class:`ClsDataSample`; ``codebook_sizes``, the number of codes of each of
    the Q columns, and ``indices_kind``, what the columns are (see ``hook.quantizers.Quantizer``).
    """


def dates_as_rows(images: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Return a series (T, C, H, W) as one image (C, T * H, W), an image (C, H, W) as it is."""
    return (
        images
        if images.ndim == 3
        else images.swapaxes(0, 1).reshape(images.shape[1], -1, images.shape[3])
    )


@dataclass
class ImageTokens:
    """Tokens of one image as the model used them, field ``tokens`` of the data samples it returns.

    Attributes:
        output: Tokenizer output of this image, a batch of one.
        embeddings: (N, D) tokens after the last block, without class token.
        seeds: Seeds of this image; None for a tokenizer without seeds.
        image: (C, H', W') input of the tokenizer: normalised and padded.
        image_valid: (H', W') bool, validity passed to the tokenizer; None if none was.
        valid: (H', W') bool, where the image has data; None: everywhere.
        size: Height and width before padding; None: those of ``image``.
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
        """Number of tokens N that the model used, without class token."""
        return self.output.num_tokens

    def token_map(self, everywhere: bool = False) -> np.ndarray:
        """Return the token id of each pixel, (H, W) int64.

        It is -1 where the image has no data, unless ``everywhere``.
        """
        return self.spread(self.output.token_map()[0], everywhere)

    def spread(self, cells: Tensor, everywhere: bool = False) -> np.ndarray:
        """Return the value of each pixel's cell, (H, W) int64; see :meth:`token_map`.

        Args:
            cells: (h, w) integers on the tokenizer's grid.
            everywhere: Also where the image has no data.
        """
        pixels = spread_cells(cells, tuple(self.image.shape[-2:]), self.output.cell).cpu()
        if self.valid is not None and not everywhere:
            pixels = pixels.masked_fill(~self.valid.cpu(), -1)
        height, width = self.size or pixels.shape
        return pixels[:height, :width].to(torch.int64).numpy()

    def colours(self) -> Tensor:
        """Return the mean normalised bands of each cell, (C, h, w)."""
        known = self.image.isfinite().all(dim=0)
        if self.image_valid is not None:
            known = known & self.image_valid
        image, output = self.image.nan_to_num(posinf=0, neginf=0)[None], self.output
        return mean_colours(image, output.cell, output.grid_size, known[None])[0]
