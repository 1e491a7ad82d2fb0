"""Tokenize an image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement, PixelData

from hook.errors import DataError
from hook.geo.bands import to_model_units
from hook.inference.images import inference_pipeline, read_image
from hook.inference.models import Model, backbone_with_tokens, chosen_tokens, load_model
from hook.structures import ImageTokens
from hook.tokenizers import TokenizerOutput


def tokenize(
    model: Model,
    image: Any,
    valid: np.ndarray | None = None,
    num_tokens: int | None = None,
    bidx: Sequence[int | str] | None = None,
) -> TokenizerOutput:
    """Tokenize an image.

    Args:
        model: A loaded model, or argument of :func:`load_model`.
        image: A file, an xarray.DataArray (band, y, x), or native values (C, H, W) in the model's
            band order.
        valid: (H, W), nonzero where an array's pixels are valid.
        num_tokens: Number of tokens; default: the model's.
        bidx: Names or 1-based numbers of the bands of a file or DataArray in the model's order;
            default: those of the model's dataset meta.

    Returns:
        Tokens (1, N, D) and assignment (1, N, h, w) on the CPU, as used by the model;
        ``output.token_map(image.shape[-2:])`` returns the token id of each pixel.

    Raises:
        ConfigError: The model has no tokenizer or slides over the image, ``num_tokens`` is
            invalid (see :func:`checked_tokens`), ``valid`` was passed with a file, or ``bidx``
            with an array.
        DataError: The image cannot be read, does not fit the model or has no valid pixel, or
            ``valid`` does not fit the image.
    """
    return image_tokens(model, image, valid, num_tokens, bidx).output.cpu()


@torch.inference_mode()
def image_tokens(
    model: Model,
    image: Any,
    valid: np.ndarray | None = None,
    num_tokens: int | None = None,
    bidx: Sequence[int | str] | None = None,
) -> ImageTokens:
    """Return the tokens of an image as used by a model; see :func:`tokenize`."""
    model = load_model(model)
    backbone_with_tokens(model)
    num_tokens = chosen_tokens(model, num_tokens)
    name, values, known, read = read_image(model, image, valid, bidx)
    if read is not None:
        packed = inference_pipeline(model)(read)
        inputs, sample = packed["inputs"], packed["data_samples"]
    else:
        sample = BaseDataElement()
        if valid is not None or not known.all():
            valid = known
            sample.valid_mask = PixelData(data=torch.from_numpy(valid)[None])
        inputs = torch.from_numpy(to_model_units(values, valid, model.dataset_meta))
    data = model.data_preprocessor({"inputs": [inputs], "data_samples": [sample]}, False)
    try:
        return model.tokenize(**data, num_tokens=num_tokens)[0]
    except ValueError as error:
        raise DataError(
            f"{name} does not fit the model",
            found=error,
            remedy="crop or resize it to the model's input size",
        ) from None
