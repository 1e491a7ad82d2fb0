"""A model as a function of windows that gives token regions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hook.arguments import check_int
from hook.errors import ConfigError
from hook.inference.models import load_model
from hook.inference.windows import WindowPredictor
from hook.regions import TokenBatch

EMBEDDINGS = ("tokens", "seeds")
"""What regions can be embedded by."""


class RegionPredictor:
    """A model as the function that :func:`hook.regions.extract_regions` calls.

    A window goes through the model once: the tokens are those from which it makes its answer.

    Args:
        model: From :func:`hook.apis.load_model`, in evaluation mode.
        num_tokens: Number of tokens of every window; None takes the model's.
        min_region_pixels: Smallest connected part of a token that stays, in pixels (see
            :func:`hook.evaluation.superpixels.token_regions`); 0 keeps all.
        embedding: ``"tokens"``: the last block's tokens. ``"seeds"``: means and standard deviations
            of the seeds of a region, after object perception.

        resolution: Ground size of the windows' pixels in metres; see :class:`WindowPredictor`.

    Attributes:
        embed_dims: Width of the embeddings, D: of a token, or twice that of a seed.
        class_names: K names, or None where the model has no class for a token: a classification
            head that takes the class token.

    Raises:
        ConfigError: The model is in training mode, has no tokens, or not the seeds to embed by; or
            ``min_region_pixels`` is no whole number from 0.
    """

    def __init__(
        self,
        model: nn.Module,
        num_tokens: int | None = None,
        min_region_pixels: int = 0,
        embedding: str = "tokens",
        resolution: float | None = None,
    ) -> None:
        model = load_model(model)
        backbone = model.backbone
        if not hasattr(backbone, "forward_with_tokens"):
            raise ConfigError(
                f"{type(backbone).__name__} has no tokens, and so no regions",
                expected="a model with hook.TokenViT as its backbone",
                remedy="polygons of classes come from 'hook map --vectors'",
            )
        if embedding not in EMBEDDINGS:
            raise ConfigError(
                "embedding",
                expected=" or ".join(EMBEDDINGS),
                found=embedding,
                remedy="choose what embeds a region: its token, or its own seeds",
            )
        if embedding == "seeds" and not hasattr(backbone.tokenizer, "perceive"):
            raise ConfigError(
                f"{type(backbone.tokenizer).__name__} has no seeds to embed regions by",
                expected="a model with hook.HookTokenizer",
                remedy="embed them by their tokens",
            )
        min_region_pixels = check_int("min_region_pixels", min_region_pixels, minimum=0)
        self.model = model
        self._predict = WindowPredictor(model, num_tokens=num_tokens, resolution=resolution)
        self._by_seeds = embedding == "seeds"
        self._min_region_pixels = min_region_pixels
        self.device, self.embed_dims = self._predict.device, int(backbone.embed_dims)
        if self._by_seeds:
            self.embed_dims = 2 * int(backbone.tokenizer.seed_dims)
        self._heads_tokens = getattr(getattr(model, "head", None), "pooling", None) == "mean"
        known = self._predict.segments or self._heads_tokens
        self.class_names = tuple(model.dataset_meta["classes"]) if known else None

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> TokenBatch:
        """Tokenise a batch of windows.

        Args:
            windows: (B, C, h, w) native values in the model's band order.
            valid: (B, h, w) bool.

        Returns:
            Owners of pixels, last block's tokens or the seeds, and scores: of pixels for a
            segmentation, of tokens where a classification head pools their mean and can so judge
            each alone.
        """
        from hook.evaluation.superpixels import token_regions  # with scikit-image and SciPy

        scores, tokens = self._predict.with_tokens(windows, valid)
        token_ids = [token_regions(one, self._min_region_pixels, everywhere=True) for one in tokens]
        embeddings = seeds = seed_of_pixel = token_scores = None
        if self._by_seeds:  # images of one size have equally many
            seeds = [one.seeds.features.flatten(0, 2).float().cpu().numpy() for one in tokens]
            grid = torch.arange(len(seeds[0])).reshape(tokens[0].output.grid_size)
            seed_of_pixel = np.stack([one.spread(grid, everywhere=True) for one in tokens])
            seeds = np.stack(seeds)
        else:
            embeddings = _stack([one.embeddings for one in tokens])
        if self._heads_tokens:
            each = torch.cat([one.embeddings for one in tokens])[:, None]  # every token alone
            chances = self.model.head(each).float().softmax(dim=1)
            token_scores = _stack(chances.split([one.num_tokens for one in tokens]))
        return TokenBatch(
            np.stack(token_ids),
            embeddings,
            token_scores,
            scores if self._predict.segments else None,
            seeds,
            seed_of_pixel,
        )


def _stack(rows: Sequence[Tensor]) -> np.ndarray:
    """Stack (N, D) arrays of several lengths as (B, most N, D), filled up with zeros."""
    return pad_sequence([one.float() for one in rows], batch_first=True).cpu().numpy()
