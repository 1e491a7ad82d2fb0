"""Predict token regions of windows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hook.arguments import check_int
from hook.errors import ConfigError
from hook.inference.models import backbone_with_tokens, load_model
from hook.inference.windows import WindowPredictor
from hook.regions.plan import SeedBatch, TokenBatch
from hook.structures import ImageTokens
from hook.tokenizers import SeedMap, refine_borders

EMBEDDINGS = ("tokens", "seeds")
"""Kinds of region embeddings."""


class RegionPredictor:
    """A model as the function that :func:`hook.regions.extract_regions` calls.

    Args:
        model: From :func:`hook.apis.load_model`, in evaluation mode.
        num_tokens: Number of tokens per window; default: the model's.
        min_region_pixels: Minimum size of a connected part of a token (see
            :func:`hook.evaluation.superpixels.token_regions`); 0 keeps all.
        refine: Give pixels at the borders of tokens to the neighbour of like colour
            (:func:`hook.tokenizers.refine_borders`); with ``of_scene``
            :func:`hook.regions.extract_regions` does so.
        embedding: ``"tokens"``: the last block's tokens. ``"seeds"``: means and standard deviations
            of the seeds of a region, after object perception. None: ``"seeds"`` with ``of_scene``,
            else ``"tokens"``.
        resolution: Metres per pixel, see :class:`WindowPredictor`.
        of_scene: Return seeds for regions of the whole scene.

    Attributes:
        embed_dims: Width of the embeddings, D: of a token, or twice that of a seed.
        class_names: K names; None if tokens have no class, because the head uses the class token.

    Raises:
        ConfigError: The model is in training mode, has no tokens or, for ``"seeds"``, no seeds; it
            has no regions of scenes; or ``min_region_pixels`` is not an integer from 0.
    """

    def __init__(
        self,
        model: nn.Module,
        num_tokens: int | None = None,
        min_region_pixels: int = 0,
        embedding: str | None = None,
        resolution: float | None = None,
        of_scene: bool = False,
        refine: bool = False,
    ) -> None:
        model = load_model(model)
        backbone = backbone_with_tokens(model)
        if embedding is None:
            embedding = "seeds" if of_scene else "tokens"
        if embedding not in EMBEDDINGS:
            raise ConfigError(
                "embedding",
                expected=" or ".join(EMBEDDINGS),
                found=embedding,
                remedy="choose one of these",
            )
        if embedding == "seeds" and not hasattr(backbone.tokenizer, "perceive"):
            raise ConfigError(
                f"{type(backbone.tokenizer).__name__} has no seeds to embed regions by",
                expected="a model with hook.HookTokenizer",
                remedy="embed them by their tokens",
            )
        preset = getattr(backbone.tokenizer, "preset", None)
        if of_scene and preset != "objects":
            kind = type(backbone.tokenizer).__name__
            raise ConfigError(
                "the model has no regions of whole scenes",
                expected="a hook.HookTokenizer with preset 'objects'",
                found=kind if preset is None else f"{kind} with preset {preset!r}",
                remedy="use a model with that preset, or omit scale and regions_per_km2",
            )
        self._of_scene = of_scene
        self._min_region_pixels = check_int("min_region_pixels", min_region_pixels, minimum=0)
        self._refine = refine
        self.model = model
        self._predict = WindowPredictor(model, num_tokens=num_tokens, resolution=resolution)
        self._by_seeds = embedding == "seeds"
        self.device, self.embed_dims = self._predict.device, int(backbone.embed_dims)
        if self._by_seeds:
            self.embed_dims = 2 * int(backbone.tokenizer.seed_dims)
        self._classifies_tokens = getattr(getattr(model, "head", None), "pooling", None) == "mean"
        known = self._predict.segments or self._classifies_tokens
        self.class_names = tuple(model.dataset_meta["classes"]) if known else None

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> TokenBatch | SeedBatch:
        """Tokenize a batch of windows.

        Args:
            windows: (B, C, h, w) native values in the model's band order.
            valid: (B, h, w) bool.

        Returns:
            Token ids, tokens of the last block or seeds, and scores: of pixels for a segmentation,
            of tokens if a classification head pools their mean. For regions of the whole scene
            seeds and their grouping features, and scores of pixels, those of their tokens included.
        """
        if self._of_scene:
            return self._seeds(windows, valid)
        from hook.evaluation.superpixels import token_regions  # imports scikit-image and SciPy

        scores, tokens = self._predict.with_tokens(windows, valid)
        token_ids = [token_regions(one, self._min_region_pixels, everywhere=True) for one in tokens]
        if self._refine:
            token_ids = [_refined(one, ids) for one, ids in zip(tokens, token_ids, strict=True)]
        embeddings = seeds = seed_of_pixel = token_scores = None
        if self._by_seeds:  # images of one size have the same number
            seeds = [one.seeds.features.flatten(0, 2).float().cpu().numpy() for one in tokens]
            grid = torch.arange(len(seeds[0])).reshape(tokens[0].output.grid_size)
            seed_of_pixel = np.stack([one.spread(grid, everywhere=True) for one in tokens])
            seeds = np.stack(seeds)
        else:
            embeddings = _stack([one.embeddings for one in tokens])
        if self._classifies_tokens:
            token_scores = _stack(self._classify(tokens))
        return TokenBatch(
            np.stack(token_ids),
            embeddings,
            token_scores,
            scores if self._predict.segments else None,
            seeds,
            seed_of_pixel,
        )

    def _seeds(self, windows: np.ndarray, valid: np.ndarray) -> SeedBatch:
        """Return the seeds of a batch of windows."""
        scores = None
        if self.class_names is None:
            seeds = self._predict.perceive(windows, valid)
        else:
            scores, tokens = self._predict.with_tokens(windows, valid)
            parts = zip(*(one.seeds for one in tokens), strict=True)
            seeds = SeedMap(*(None if part[0] is None else torch.cat(part) for part in parts))
            if self._classifies_tokens:
                of_tokens = zip(self._classify(tokens), tokens, strict=True)
                pixels = [
                    each.cpu().numpy()[one.token_map(everywhere=True)] for each, one in of_tokens
                ]
                scores = np.moveaxis(np.stack(pixels), -1, 1)
        rows, columns = (
            side // self.model.backbone.tokenizer.stride for side in windows.shape[-2:]
        )
        grouping = self.model.backbone.tokenizer.grouping(seeds)
        features, grouping = (
            part[:, :rows, :columns].float().cpu().numpy() for part in (seeds.features, grouping)
        )
        return SeedBatch(features, grouping, scores)

    def _classify(self, tokens: Sequence[ImageTokens]) -> tuple[Tensor, ...]:
        """Return the class probabilities (N, K) of the tokens of each image, one by one."""
        single = torch.cat([one.embeddings for one in tokens])[:, None]  # sets of one token
        probs = self.model.head(single).float().softmax(dim=1)
        return probs.split([one.num_tokens for one in tokens])


def _refined(tokens: ImageTokens, token_ids: np.ndarray) -> np.ndarray:
    """Return the token of each pixel (H, W) after :func:`hook.tokenizers.refine_borders`."""
    height, width = token_ids.shape
    image = tokens.image[None, :, :height, :width].cpu()
    ids = torch.from_numpy(token_ids)
    known = torch.ones_like(ids, dtype=torch.bool) if tokens.valid is None else tokens.valid.cpu()
    refined = refine_borders(ids.masked_fill(~known[:height, :width], -1)[None], image)[0]
    return torch.where(refined < 0, ids, refined).numpy()


def _stack(rows: Sequence[Tensor]) -> np.ndarray:
    """Stack tensors (N, D) of different N as (B, max N, D), padded with zeros."""
    return pad_sequence([one.float() for one in rows], batch_first=True).cpu().numpy()
