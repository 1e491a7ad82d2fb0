"""Which pixels count."""

from torch import Tensor


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
