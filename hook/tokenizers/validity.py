"""Which pixels count."""

from torch import Tensor, nn


def mark_invalid(image: Tensor, valid: Tensor) -> Tensor:
    """Put NaN into the pixels of an image that are not valid.

    It is the one way in which a model that is handed images only can learn which of their pixels
    count; tokenizers take it with ``nan_is_invalid=True``.

    Args:
        image: (..., C, H, W) image.
        valid: (..., H, W), zero or False where not valid.

    Returns:
        (..., C, H, W) floating-point image.
    """
    image = image if image.is_floating_point() else image.float()
    return image.masked_fill((valid == 0).unsqueeze(-3), float("nan"))


def check_marks(model: nn.Module) -> None:
    """Refuse a model whose preprocessor marks pixels that its tokenizer does not understand.

    Args:
        model: A model; its ``data_preprocessor.mark_invalid`` is compared with its
            ``backbone.tokenizer.nan_is_invalid``, where it has them.

    Raises:
        ValueError: They differ; every token of an image with a marked pixel would be NaN.
    """
    if not getattr(getattr(model, "data_preprocessor", None), "mark_invalid", False):
        return
    tokenizer = getattr(getattr(model, "backbone", None), "tokenizer", None)
    if not getattr(tokenizer, "nan_is_invalid", False):
        raise ValueError(
            "data_preprocessor.mark_invalid=True puts NaN where images have no data, which needs "
            "a tokenizer with nan_is_invalid=True (preset 'fast'): set "
            "backbone.tokenizer.nan_is_invalid=True, or leave mark_invalid out"
        )
