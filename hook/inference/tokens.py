"""The tokens of an image."""

import os
from typing import Any

import numpy as np
import torch

from hook.errors import ConfigError, DataError
from hook.geo.arrays import is_data_array
from hook.geo.bands import to_model_units
from hook.inference.images import (
    check_validity,
    check_values,
    inference_pipeline,
    read_sample,
    refuse_validity,
)
from hook.inference.models import Model, checked_tokens, load_model, use_tokens
from hook.tokenizers import TokenizerOutput
from hook.tokenizers.validity import mark_invalid


@torch.inference_mode()
def tokenize(
    model: Model,
    image: Any,
    valid: np.ndarray | None = None,
    num_tokens: int | None = None,
) -> TokenizerOutput:
    """Cut an image into tokens.

    Args:
        model: A loaded model, or what :func:`load_model` takes.
        image: A file, an xarray.DataArray (band, y, x), or native values (C, H, W) in the model's
            band order.
        valid: (H, W), nonzero where an array's pixels count.
        num_tokens: Number of tokens; None takes the model's.

    Returns:
        Tokens (1, N, D) and assignment (1, N, h, w) on the CPU;
        :func:`hook.tokenizers.token_map` draws the regions from the latter.

    Raises:
        ConfigError: The model has no tokenizer, ``num_tokens`` is impossible (see
            :func:`checked_tokens`), or ``valid`` came with a file.
        DataError: The image cannot be read or does not fit the model, or ``valid`` the image.
    """
    model = load_model(model)
    tokenizer = getattr(model.backbone, "tokenizer", None)
    if tokenizer is None:
        raise ConfigError(
            f"{type(model.backbone).__name__} has no tokenizer",
            expected="a model with hook.TokenViT as its backbone",
            remedy="take a config whose backbone is hook.TokenViT",
        )
    if num_tokens is not None:
        checked_tokens(model, num_tokens)
    if isinstance(image, (str, os.PathLike)) or is_data_array(image):
        refuse_validity(image, valid)
        name = "the image" if is_data_array(image) else f"image {image}"
        packed = inference_pipeline(model)(read_sample(image, model))
        data = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
    else:
        name = "the image"
        values = check_values(model, image, name)
        valid = None if valid is None else check_validity(values, valid, name, blank=True)
        inputs = torch.from_numpy(to_model_units(values, valid, model.dataset_meta))
        if valid is not None and getattr(model.data_preprocessor, "mark_invalid", False):
            inputs = mark_invalid(inputs, torch.from_numpy(valid))
        data = {"inputs": [inputs]}
    data = model.data_preprocessor(data, False)
    try:
        with use_tokens(model, num_tokens):
            output = tokenizer(torch.stack(list(data["inputs"])))
    except ValueError as error:
        raise DataError(
            f"{name} does not fit the model",
            found=error,
            remedy="cut or resize it to the size the model was trained with",
        ) from None
    return output.cpu()
