"""Options of token regions, and the model output they are made from."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hook.arguments import bad_argument, check_number
from hook.errors import ConfigError, SceneError
from hook.scenes.grid import WindowGrid
from hook.scenes.pipeline import WindowPlan
from hook.scenes.request import SceneRequest

MERGE_THRESHOLD = 0.9
"""Cosine above which ``merge`` joins regions by default.

On the Banepa scene, tokens of the same query on both sides of a seam have cosines above 0.96, of
different queries mostly below 0.6, for the presets fast and reference. With seeds (a tokenizer
trained on EuroSAT), 75 % of neighbours of the same colour are above 0.93, of different colours
below 0.84.
"""


class TokenBatch(NamedTuple):
    """Tokens of a batch of windows, with one kind of scores at most.

    A region's embedding is its token's, or with ``seeds`` their means and standard deviations.
    """

    token_ids: np.ndarray
    """(B, h, w) integers: token id of each pixel, from 0 to N - 1."""
    embeddings: np.ndarray | None
    """(B, N, D) real numbers; None with ``seeds``."""
    token_scores: np.ndarray | None = None
    """(B, N, K) class probabilities of each token."""
    pixel_scores: np.ndarray | None = None
    """(B, K, h, w) class probabilities of each pixel."""
    seeds: np.ndarray | None = None
    """(B, M, D / 2) real numbers; zero for seeds without data."""
    seed_of_pixel: np.ndarray | None = None
    """(B, h, w) integers: seed of each pixel, from 0 to M - 1; with ``seeds``."""


class SeedBatch(NamedTuple):
    """Seeds of a batch of windows, for regions of the whole scene."""

    seeds: np.ndarray
    """(B, h, w, D) real numbers, of cells of ``STRIDE`` pixels; zero for seeds without data."""
    grouping: np.ndarray
    """(B, h, w, G) features whose hierarchy the regions are, see :func:`merge_seeds`."""
    pixel_scores: np.ndarray | None = None
    """(B, K, H, W) class probabilities of each pixel."""


STRIDE = 4
"""Pixels per seed, along each axis."""


@dataclass(frozen=True)
class RegionRequest(SceneRequest):
    """Options of :func:`extract_regions`: those of any scene, and the following.

    Args:
        overlap: See :class:`hook.scenes.SceneRequest`. None: windows do not overlap, except with
            ``scale`` or ``regions_per_km2`` by a quarter, so that seeds know their surroundings.
        scale: Make regions of the whole scene instead of windows, by merging neighbours up to this
            cost (:func:`hook.tokenizers.merge_seeds`): larger numbers give fewer regions.
        regions_per_km2: Make regions of the whole scene, as many as this number times the area with
            data in square kilometres, the merges of lowest cost first.
        explode: Make a region of every 4-connected part of a token.
        merge: Merge touching regions of neighbouring windows with similar embeddings.
        merge_threshold: Cosine of embeddings above which they are merged, from -1 to 1. The
            default merges regions of the same query; about 0.998 also requires similar contents.
            Without ``explode`` tokens of many parts can be merged in chains across the scene.
        layer: Name of the layer in a GeoPackage.
    """

    overlap: float | None = None
    scale: float | None = None
    regions_per_km2: float | None = None
    explode: bool = False
    merge: bool = False
    merge_threshold: float = MERGE_THRESHOLD
    layer: str = "regions"

    def __post_init__(self) -> None:
        if self.overlap is None:
            self._set(overlap=0.25 if self.of_scene else 0)
        super().__post_init__()
        for name in ("scale", "regions_per_km2"):
            if getattr(self, name) is not None:
                self._set(**{name: check_number(name, getattr(self, name), above=0)})
        if self.of_scene:
            self._check_alone()
        remedy = "use a merge threshold such as 0.9"
        check_number("merge_threshold", self.merge_threshold, -1, 1, remedy=remedy)
        if not isinstance(self.layer, str):
            raise bad_argument("layer", self.layer, "a name")

    @property
    def of_scene(self) -> bool:
        """Whether regions are those of the whole scene, not of its windows."""
        return self.scale is not None or self.regions_per_km2 is not None

    def _check_alone(self) -> None:
        """Raise ConfigError for an option that regions of the whole scene do not have."""
        one, other = ("scale", "regions_per_km2")
        name = one if self.scale is not None else other
        for wrong, reason in (
            (other, "one of the two decides how far regions are merged"),
            ("merge", "the regions are not cut by windows, so there is nothing to merge"),
            ("explode", "the regions are connected, so there is nothing to separate"),
        ):
            if wrong != name and getattr(self, wrong):
                raise refused(wrong, name, reason)


def refused(option: str, name: str, reason: str) -> ConfigError:
    """Return the error of an option that regions by ``scale`` or ``regions_per_km2`` lack."""
    return ConfigError(
        f"{option} and {name} exclude each other",
        expected=f"{name} alone: {reason}",
        found="both",
        remedy=f"omit {option} or {name}",
    )


@dataclass(frozen=True, kw_only=True)
class RegionPlan(WindowPlan):
    """Options that determine the regions of a scene, the same in every process."""

    embed_dims: int
    bands: tuple[str, ...]
    class_names: tuple[str, ...] | None
    explode: bool
    merge: float | None
    scale: float | None = None
    regions_per_km2: float | None = None
    refine: bool = False
    step: int = 1

    @property
    def grid(self) -> WindowGrid:
        """The windows."""
        return WindowGrid(self.height, self.width, self.window, self.overlap, self.step)

    @property
    def of_scene(self) -> bool:
        """Whether regions are those of the whole scene, not of its windows."""
        return self.step > 1

    @property
    def num_classes(self) -> int:
        """Number of classes K, 0 without classes."""
        return len(self.class_names or ())


def check_answer(answer: TokenBatch, batch: int, plan: RegionPlan) -> TokenBatch:
    """Check shapes and values of a model's output, and return a copy."""
    answer = TokenBatch(*(None if a is None else np.asarray(a) for a in answer))
    if (answer.embeddings is None) == (answer.seeds is None):
        raise SceneError(
            "the model's answer to a batch of windows",
            expected="embeddings or seeds",
            found="neither" if answer.seeds is None else "both",
            remedy="return one of the two from the function of windows",
        )
    side, k = plan.window, plan.num_classes
    tokens, seeds = _count(answer.embeddings), _count(answer.seeds)
    if answer.embeddings is None:  # tokens without pixels may be missing
        scores = answer.token_scores
        tokens = int(answer.token_ids.max(initial=0)) + 1 if scores is None else _count(scores)
    shapes = {
        "token_ids": (batch, side, side),
        "embeddings": (batch, max(tokens, 1), plan.embed_dims),
        "token_scores": (batch, tokens, k),
        "pixel_scores": (batch, k, side, side),
        "seeds": (batch, max(seeds, 1), plan.embed_dims // 2),
        "seed_of_pixel": (batch, side, side),
    }
    bounds = {"token_ids": tokens, "seed_of_pixel": seeds}
    for name, array in answer._asdict().items():
        what = f"the model's answer to a batch of windows: {name}"
        if array is None:
            continue
        if array.shape != shapes[name]:
            raise SceneError(
                what,
                expected=f"shape {shapes[name]}",
                found=f"shape {array.shape}",
                remedy="check embed_dims and class_names, and that the output has the size of the "
                "input",
            )
        if name in bounds and (array.min() < 0 or array.max() >= bounds[name]):
            raise SceneError(
                what,
                expected=f"0 to {bounds[name] - 1}",
                found=f"{array.min()} to {array.max()}",
                remedy="return indexes within these bounds from the function of windows",
            )
        if name not in bounds and not np.isfinite(array).all():
            raise SceneError(
                what,
                expected="finite numbers",
                found="NaN or infinity",
                remedy="check the model's weights and the scene's values",
            )
    if (answer.seeds is None) != (answer.seed_of_pixel is None):
        raise SceneError(
            "the model's answer to a batch of windows",
            expected="seed_of_pixel with seeds",
            found="one of them",
            remedy="return both or neither from the function of windows",
        )
    given = sum(array is not None for array in (answer.token_scores, answer.pixel_scores))
    if given != (plan.class_names is not None):
        raise SceneError(
            "the model's answer to a batch of windows",
            expected="scores of tokens or of pixels with class_names, none without",
            found=f"{given} kinds of scores, {k} class names",
            remedy="return scores where class_names are given, and only there",
        )
    # Copies, because the model may reuse its buffers.
    return TokenBatch(
        **{
            name: None if a is None else np.array(a, np.int32 if name in bounds else np.float32)
            for name, a in answer._asdict().items()
        }
    )


def check_seeds(answer: SeedBatch, batch: int, plan: RegionPlan) -> SeedBatch:
    """Check shapes and values of a model's seeds, and return a copy."""
    answer = SeedBatch(*(None if a is None else np.array(a, np.float32) for a in answer))
    side, dims = plan.window, plan.embed_dims // 2
    grid = (batch, side // STRIDE, side // STRIDE)
    groups = answer.grouping.shape[-1:]
    scores = None if plan.class_names is None else (batch, plan.num_classes, side, side)
    shapes = {"seeds": (*grid, dims), "grouping": (*grid, *groups), "pixel_scores": scores}
    for name, array in answer._asdict().items():
        found = None if array is None else array.shape
        if found != shapes[name] or (array is not None and not np.isfinite(array).all()):
            raise SceneError(
                f"the model's answer to a batch of windows: {name}",
                expected=f"finite numbers of shape {shapes[name]}",
                found="NaN or infinity" if found == shapes[name] else f"shape {found}",
                remedy="check embed_dims and class_names, the model's weights and the scene's "
                "values",
            )
    return answer


def _count(vectors: np.ndarray | None) -> int:
    """Return the number of vectors n of (B, n, ...)."""
    return vectors.shape[1] if vectors is not None and vectors.ndim == 3 else 0


def pool_seeds(
    seeds: np.ndarray, seed_of_pixel: np.ndarray, labels: np.ndarray, count: int
) -> np.ndarray:
    """Embed regions by means and standard deviations of the seeds of their pixels.

    Args:
        seeds: (M, F) features; all-zero seeds are skipped.
        seed_of_pixel: (P,) seed of each pixel.
        labels: (P,) region of each pixel.
        count: Number of regions n.

    Returns:
        (n, 2 F) float32: means, then standard deviations; zero for regions without nonzero seeds.
    """
    from scipy import sparse  # takes 0.2 s, for embeddings by seeds only

    known = seeds.any(axis=1)
    pairs = np.ones(len(labels)), (labels, seed_of_pixel)
    shares = sparse.coo_array(pairs, shape=(count, len(seeds))).tocsr()[:, known]
    pixels = np.maximum(shares.sum(axis=1), 1)[:, np.newaxis]
    features = seeds[known].astype(np.float64)
    means = shares @ features / pixels
    # Subtract the window's mean first: squares of the features would lose digits.
    centre = features.mean(axis=0) if len(features) else 0
    shift = np.where(shares.sum(axis=1)[:, np.newaxis] > 0, means - centre, 0)
    squares = shares @ (features - centre) ** 2 / pixels
    spread = np.sqrt(np.maximum(squares - shift**2, 0))
    return np.concatenate([means, spread], axis=1).astype(np.float32)
