"""Token regions of scenes: what joins :mod:`hook.regions` with a checkpoint."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import torch
from torch import Tensor, nn

from hook.apis.scenes import SceneModel
from hook.arguments import is_whole_number, whole_number
from hook.errors import ConfigError
from hook.evaluation.homogeneity_metric import owners_of_cells
from hook.geo.vector import read_vectors
from hook.inference.models import Model, join_checkpoint, load_model
from hook.inference.windows import WindowPredictor
from hook.regions import RegionReport, RegionRequest, TokenBatch, extract_regions
from hook.tokenizers import SeedMap, TokenizerOutput
from hook.tokenizers.assignment import resize_nearest

EMBEDDINGS = ("tokens", "seeds")
"""What regions can be embedded by."""


class RegionPredictor:
    """A model as the function that :func:`hook.regions.extract_regions` calls.

    A window goes through the model once: the tokens are those from which it makes its answer.

    Args:
        model: From :func:`hook.apis.load_model`, in evaluation mode.
        fixed: All windows have the tokenizer's number of tokens, also where the model would
            choose it for each.
        min_region: Smallest connected part of a token that stays, in pixels (see
            :func:`hook.evaluation.superpixels.merge_specks`); 0 keeps all.
        embedding: ``"tokens"``: the last block's tokens. ``"seeds"``: means and standard deviations
            of the seeds of a region, after object perception.

    Attributes:
        embed_dims: Width of the embeddings, D: of a token, or twice that of a seed.
        class_names: K names, or None where the model has no class for a token: a classification
            head that takes the class token.

    Raises:
        ConfigError: The model is in training mode, has no tokens, or not the seeds to embed by; or
            ``min_region`` is no whole number from 0.
    """

    def __init__(
        self,
        model: nn.Module,
        fixed: bool = False,
        min_region: int = 0,
        embedding: str = "tokens",
    ) -> None:
        model = load_model(model)
        backbone = model.backbone
        if not hasattr(backbone, "forward_tokens"):
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
        min_region = whole_number("min_region", min_region, least=0)
        self.model = model
        self._predict, self._by_seeds = WindowPredictor(model), embedding == "seeds"
        self._fixed = fixed
        self._min_region = min_region
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
        backbone = self.model.backbone
        with recorded_passes(backbone, self._fixed) as passes:
            scores = self._predict(windows, valid)
        batch, (height, width) = len(windows), windows.shape[-2:]
        order = list(range(batch))
        if len(passes) > 1 and backbone.explained is not None:
            # Images with equal numbers of tokens went together, few tokens first.
            counts = backbone.token_counts
            order = torch.cat([(counts == n).nonzero()[:, 0] for n in counts.unique()]).tolist()
        if sum(len(one.tokens) for one in passes) != batch:
            raise ConfigError(
                "the model cuts a window into several images, whose tokens are not one window's",
                expected="test_cfg.mode='whole', or windows of its crop_size",
                found=f"{len(passes)} passes for {batch} windows",
                remedy="choose the model's crop size with --window",
            )
        owners = np.empty((batch, height, width), np.int64)
        most = max(one.tokenized.assignment.shape[1] for one in passes)
        embeddings = seeds = seed_of_pixel = token_scores = None
        if self._by_seeds:  # images of one size have equally many
            number = int(np.prod(passes[0].seeds.features.shape[1:3]))
            seeds = np.empty((batch, number, self.embed_dims // 2), np.float32)
            seed_of_pixel = np.empty((batch, height, width), np.int64)
        else:
            embeddings = np.zeros((batch, most, self.embed_dims), np.float32)
        if self._heads_tokens:
            token_scores = np.zeros((batch, most, len(self.class_names)), np.float32)
        start = 0
        for images, tokenized, tokens, its_seeds in passes:
            index = order[start : start + len(tokens)]
            start += len(tokens)
            size = tuple(images.shape[-2:])
            # The preprocessor may have padded the windows to a multiple of what the model wants.
            cells = owners_of_cells(
                tokenized.assignment, backbone.tokenizer, images, self._min_region
            )
            for image, mine in zip(index, cells, strict=True):
                owners[image] = resize_nearest(mine, size)[:height, :width]
            if seeds is not None:
                grid = its_seeds.features.shape[1:3]
                places = resize_nearest(np.arange(np.prod(grid)).reshape(grid), size)
                seed_of_pixel[index] = places[:height, :width]
                seeds[index] = its_seeds.features.flatten(1, 2).float().cpu().numpy()
            number = tokenized.assignment.shape[1]
            tokens = tokens[:, -number:]  # a class token comes first
            if embeddings is not None:
                embeddings[index, :number] = tokens.float().cpu().numpy()
            if token_scores is not None:
                logits = self.model.head(tokens.flatten(0, 1)[:, None])  # each token alone
                chances = logits.float().softmax(dim=1).unflatten(0, (len(tokens), number))
                token_scores[index, :number] = chances.cpu().numpy()
        return TokenBatch(
            owners,
            embeddings,
            token_scores,
            scores if self._predict.segments else None,
            seeds,
            seed_of_pixel,
        )


class Pass(NamedTuple):
    """What went through a backbone at a time."""

    images: Tensor
    """(B, C, H, W)."""
    tokenized: TokenizerOutput
    tokens: Tensor
    """(B, N, D) of the last block."""
    seeds: SeedMap | None
    """None of a tokenizer without."""


@contextmanager
def recorded_passes(backbone: nn.Module, fixed: bool) -> Iterator[list[Pass]]:
    """Keep what goes through a backbone: the images, tokenizer's output, last tokens.

    Args:
        backbone: A :class:`hook.models.TokenViT`.
        fixed: Let all images have the tokenizer's number of tokens.

    Yields:
        A list that gets each pass.
    """
    passes: list[Pass] = []
    last: list[Tensor] = []
    perceived: list[SeedMap] = []
    forward_tokens, explained = backbone.forward_tokens, backbone.explained
    tokenizer = backbone.tokenizer
    vectorize = getattr(tokenizer, "vectorize", None)

    def recording(images: Tensor, *arguments, **options):
        found = forward_tokens(images, *arguments, **options)
        passes.append(Pass(images, found[0], last.pop(), perceived.pop() if perceived else None))
        return found

    def vectorizing(seeds: SeedMap, *arguments, **options):
        perceived.append(seeds)
        return vectorize(seeds, *arguments, **options)

    # The last block's tokens pass here whichever blocks become dense maps.
    hook = backbone.norm.register_forward_hook(lambda module, inputs, output: last.append(output))
    backbone.forward_tokens = recording
    if vectorize is not None:
        tokenizer.vectorize = vectorizing
    if fixed:
        backbone.explained = None
    try:
        yield passes
    finally:
        del backbone.forward_tokens  # the class's own is back
        if vectorize is not None:
            del tokenizer.vectorize
        backbone.explained = explained
        hook.remove()


class RegionExtractor(SceneModel):
    """Writes the token regions of scenes as polygons with classes, statistics and embeddings.

    For fields and rules see :func:`hook.regions.extract_regions`. A segmentation gives a region
    the most frequent class of its pixels. A classification head that pools the mean of the tokens
    is applied to the single token: the window's class is not the token's.

    Args:
        model: A loaded model, or what :func:`hook.apis.load_model` takes.
        checkpoint: Deprecated: give the pair as ``model``.
        device: Where a model that is not loaded yet runs; several GPUs (``"cuda:0,1"``) share the
            scene.
        num_tokens: Number of tokens per window; None takes the model's.
        threads: CPU threads of each process; None leaves PyTorch's choice.
        min_region: Smallest connected part of a token in pixels; a smaller one goes to the
            neighbour it looks most like, so that regions have no specks. 0 keeps all.
        embedding: What the regions' embeddings are: ``"tokens"``, the last block's, which the
            parts of a token share; or ``"seeds"``, means and standard deviations of the region's
            own seeds (4 x 4 pixels each) after object perception, which tell regions apart that
            the model was not trained to tell apart.

    Raises:
        ConfigError: The config or an option cannot be used, or the model has no tokens.
        CheckpointError: See :func:`hook.apis.load_model`.

    Example:
        >>> extractor = RegionExtractor(("config.py", "checkpoint.pth"))
        >>> report = extractor.extract("scene.tif", "regions.parquet", merge=True)
    """

    _temporary = "regions.parquet"

    def __init__(
        self,
        model: Model,
        checkpoint: str | os.PathLike | None = None,
        *,
        device: str = "cpu",
        num_tokens: int | None = None,
        threads: int | None = None,
        min_region: int = 0,
        embedding: str = "tokens",
    ) -> None:
        if is_whole_number(min_region) and min_region < 0:
            raise ConfigError(
                "min_region is below zero",
                expected="a number of pixels",
                found=min_region,
                remedy="0 keeps parts of any size",
            )
        min_region = whole_number("min_region", min_region, least=0)
        options = dict(fixed=num_tokens is not None, min_region=min_region, embedding=embedding)
        super().__init__(
            RegionPredictor,
            options,
            join_checkpoint(model, checkpoint),
            device,
            num_tokens,
            threads,
        )

    def extract(
        self, input: Any, output: str | os.PathLike | None = None, **options: Any
    ) -> RegionReport | geopandas.GeoDataFrame:
        """Write the regions of a scene.

        Args:
            input: The scene: files, a TorchGeo dataset or an array, see
                :class:`hook.scenes.SceneRequest`.
            output: ``.parquet`` (GeoParquet) or ``.gpkg`` (GeoPackage); None returns the regions
                as a table.
            **options: Of :class:`hook.regions.RegionRequest`: ``window``, ``overlap``,
                ``batch_size``, ``bidx``, ``nodata``, ``aoi``, ``explode``, ``merge``,
                ``merge_threshold``, ``layer``, ``cluster``, ``workers``, ``resume``,
                ``overwrite``, ``progress``.

        Returns:
            What was done; without ``output`` the table that the file would hold.

        Raises:
            ConfigError: An option cannot be used.
            DataError: The scene lacks the model's bands.
            SceneError: See :func:`hook.regions.extract_regions`.
        """
        return self.run(RegionRequest(input, output, **options))

    def _run(self, request: RegionRequest) -> RegionReport:
        resolved = self.resolved(request)
        with self.tokens(), self.sharing(request) as run_blocks:
            return extract_regions(
                self.function,
                resolved,
                embed_dims=self.function.embed_dims,
                class_names=self.function.class_names,
                band_names=_band_names(self.model, resolved.bidx, request.bidx),
                fingerprint=self.fingerprint(),
                run_blocks=run_blocks,
            )

    def _read(self, path: Path) -> geopandas.GeoDataFrame:
        return read_vectors(path)


def _band_names(
    model: nn.Module, indexes: Sequence[int] | None, bidx: Sequence[int] | None
) -> list[str] | None:
    """Name the fields of bands: as the dataset meta does, else by their numbers in the scene."""
    names = [str(name) for name in model.dataset_meta.get("bands") or ()]
    if not bidx and names and len({name.casefold() for name in names}) == len(names):
        return names
    unique = indexes is not None and len(set(indexes)) == len(indexes)
    return [str(index) for index in indexes] if unique else None
