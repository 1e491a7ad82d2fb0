"""The scores of VTBench as its official evaluation computes them, with its quirks.

For comparison with published numbers only. What differs from HOOK's own measures
(:mod:`hook.evaluation.reconstruction`):

- Images are stretched to one size first, whatever their shape.
- PSNR is that of the error over all images together, and its range is that of the originals at
  hand, so both depend on the set.
- The range of SSIM is the larger one of the batch's originals and reconstructions, so it depends on
  the batch size.
- Saved images are truncated to 8 bits, not rounded.
- The "word error rate" divides edits of *characters* by the number of words.

Reference:
    Lin et al., "VTBench: Evaluating visual tokenizers for autoregressive image generation",
    arXiv:2505.13439.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.text import edit_distance


def resized(images: Sequence[np.ndarray], size: int) -> Tensor:
    """Stretch (H, W, 3) uint8 images to a square; (B, 3, size, size) in [0, 1]."""
    square = [Image.fromarray(x).resize((size, size), Image.Resampling.BILINEAR) for x in images]
    return torch.stack([torch.from_numpy(np.array(x)) for x in square]).permute(0, 3, 1, 2) / 255


def image_scores(originals: Tensor, decoded: Tensor, batch_size: int = 16) -> dict[str, float]:
    """Return PSNR and SSIM of images (B, C, H, W).

    Args:
        originals: Images in [0, 1].
        decoded: Their reconstructions.
        batch_size: Number of images that share the range of SSIM.
    """
    span = originals.amax().clamp(min=0) - originals.amin().clamp(max=0)
    psnr = 10 * torch.log10(span.square() / (originals - decoded).square().mean())
    total = 0.0
    for true, ours in zip(originals.split(batch_size), decoded.split(batch_size), strict=True):
        total += float(structural_similarity_index_measure(ours, true, reduction="sum"))
    return {"psnr": float(psnr), "ssim": total / len(originals)}


def to_model(
    image: np.ndarray, size: tuple[int, int] | None, how: str = "crop", signed: bool = True
) -> Tensor:
    """Bring an image to the size of a model with Lanczos filtering.

    Args:
        image: (H, W, 3) uint8.
        size: Height and width; None keeps the image's.
        how: ``"crop"`` covers the size and cuts the centre out, ``"pad"`` fits into it and fills up
            with black, ``"stretch"`` changes the proportions.
        signed: To [-1, 1], otherwise to [0, 1].

    Returns:
        (3, height, width).
    """
    picture = Image.fromarray(image)
    if size is not None:
        height, width = size
        if how == "stretch":
            inner = (width, height)
        else:
            ratios = (width / picture.width, height / picture.height)
            ratio = max(ratios) if how == "crop" else min(ratios)
            inner = (round(picture.width * ratio), round(picture.height * ratio))
        picture = picture.resize(inner, Image.Resampling.LANCZOS)
        left, top = int((inner[0] - width) / 2), int((inner[1] - height) / 2)
        picture = picture.crop((left, top, left + width, top + height))
    values = np.array(picture).transpose(2, 0, 1)
    if not signed:
        return torch.from_numpy(values) / 255
    return torch.from_numpy(
        values / 127.5 - 1
    ).float()  # from float64: decides what truncation cuts


def to_file(images: Tensor, signed: bool = True) -> np.ndarray:
    """Return (H, W, 3) uint8 of a (3, H, W) image, truncated."""
    values = (images.clamp(-1, 1) + 1) / 2 if signed else images.clamp(0, 1)
    return (values * 255).permute(1, 2, 0).to(torch.uint8).numpy()


def text_scores(predictions: Sequence[str], targets: Sequence[str]) -> dict[str, float | Tensor]:
    """Return the character error rate and the official "word error rate".

    Args:
        predictions: Texts read in the reconstructions.
        targets: Texts read in the originals.

    Returns:
        ``cer`` and ``wer`` over all texts, their values per text (``*_each``, 0 for an empty
        target), the edits (``char_errors``, ``wer_errors``), and ``chars`` and ``words`` of the
        targets.
    """
    words = [target.split() for target in targets]
    chars = torch.tensor([float(len(target)) for target in targets])
    counts = torch.tensor([float(len(of_target)) for of_target in words])
    joined = [" ".join(of_target) for of_target in words]
    errors = _edits(predictions, targets)
    word_errors = _edits([" ".join(prediction.split()) for prediction in predictions], joined)
    return {
        "char_errors": errors,
        "wer_errors": word_errors,
        "cer_each": torch.where(chars > 0, errors / chars.clamp(min=1), 0),
        "wer_each": torch.where(counts > 0, word_errors / counts.clamp(min=1), 0),
        "chars": chars.sum(),
        "words": counts.sum(),
        "cer": errors.sum() / chars.sum(),
        "wer": word_errors.sum() / counts.sum(),
    }


def _edits(predictions: Sequence[str], targets: Sequence[str]) -> Tensor:
    """Return the edits of characters of each pair."""
    return edit_distance(list(predictions), list(targets), reduction="none").float()
