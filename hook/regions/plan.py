"""How a scene is cut into regions, and what a model says of its windows."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hook.arguments import bad_argument, check_number
from hook.errors import SceneError
from hook.scenes.pipeline import WindowPlan
from hook.scenes.request import SceneRequest

MERGE_THRESHOLD = 0.9
"""Cosine above which ``merge`` joins regions by default.

Between two groups: on the Banepa scene, tokens of one query on both sides of a seam have cosines
above 0.96, those of two queries nearly all below 0.6, for the fast and the reference preset alike.
By seeds (a tokenizer trained on EuroSAT), three in four of the neighbours of one colour are above
0.93, three in four of those of two colours below 0.84.
"""


class TokenBatch(NamedTuple):
    """What is known of the tokens of a batch of windows. Scores of one kind at most.

    A region's embedding is its token's, or, of ``seeds``, their means and standard deviations.
    """

    token_ids: np.ndarray
    """(B, h, w) integers: the token, from 0 to N - 1, that each pixel belongs to."""
    embeddings: np.ndarray | None
    """(B, N, D) real numbers; None with ``seeds``."""
    token_scores: np.ndarray | None = None
    """(B, N, K) class probabilities of each token."""
    pixel_scores: np.ndarray | None = None
    """(B, K, h, w) class probabilities of each pixel."""
    seeds: np.ndarray | None = None
    """(B, M, D / 2) real numbers; zero for a seed of which nothing is known."""
    seed_of_pixel: np.ndarray | None = None
    """(B, h, w) integers: the seed, from 0 to M - 1, that each pixel lies in; with ``seeds``."""


@dataclass(frozen=True)
class RegionRequest(SceneRequest):
    """Options of regions, see :func:`extract_regions`: those of any scene, and these.

    Of overlapping windows only the cores count; by default windows do not overlap.

    Args:
        explode: Make every 4-connected part of a token a region of its own.
        merge: Join regions of neighbouring windows that touch and whose embeddings agree.
        merge_threshold: Cosine of embeddings above which they do, from -1 to 1. The default joins
            what the same query has found; about 0.998 also asks for like contents. A token of many
            parts touches many others, so that without ``explode`` chains of them can run through
            the scene.
        layer: Name of the layer in a GeoPackage.
    """

    overlap: float = 0
    explode: bool = False
    merge: bool = False
    merge_threshold: float = MERGE_THRESHOLD
    layer: str = "regions"

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "give a merge threshold such as 0.9"
        check_number("merge_threshold", self.merge_threshold, -1, 1, remedy=remedy)
        if not isinstance(self.layer, str):
            raise bad_argument("layer", self.layer, "a name")


@dataclass(frozen=True, kw_only=True)
class RegionPlan(WindowPlan):
    """How a scene is cut into regions; the same in every process."""

    embed_dims: int
    bands: tuple[str, ...]
    class_names: tuple[str, ...] | None
    explode: bool
    merge: float | None

    @property
    def num_classes(self) -> int:
        """Number of classes K, 0 where there are none."""
        return len(self.class_names or ())


def check_answer(answer: TokenBatch, batch: int, plan: RegionPlan) -> TokenBatch:
    """Refuse a model's answer of another shape or with impossible values; copy it."""
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
    if answer.embeddings is None:  # a token beyond the last that owns a pixel does not matter
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
                remedy="check embed_dims and class_names, and that the model answers at the "
                "input's resolution",
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
    # Copies, because the model may use its buffers again before these are looked at.
    return TokenBatch(
        **{
            name: None if a is None else np.array(a, np.int32 if name in bounds else np.float32)
            for name, a in answer._asdict().items()
        }
    )


def _count(vectors: np.ndarray | None) -> int:
    """Number of vectors of a window (B, n, ...)."""
    return vectors.shape[1] if vectors is not None and vectors.ndim == 3 else 0


def pool_seeds(
    seeds: np.ndarray, seed_of_pixel: np.ndarray, labels: np.ndarray, count: int
) -> np.ndarray:
    """Embed regions by the seeds that their pixels lie in.

    What a region's bands are to its colour these are to its texture and surroundings: means alone
    say what is typical of it, the spread how mixed it is.

    Args:
        seeds: (M, F) features; a seed that is all zero does not count.
        seed_of_pixel: (P,) the seed of each pixel.
        labels: (P,) the region of each pixel.
        count: Number of regions n.

    Returns:
        (n, 2 F) float32: means over a region's pixels, then standard deviations; zero where none
        of its seeds counts.
    """
    from scipy import sparse  # a fifth of a second, for embeddings by seeds only

    known = seeds.any(axis=1)
    pairs = np.ones(len(labels)), (labels, seed_of_pixel)
    shares = sparse.coo_array(pairs, shape=(count, len(seeds))).tocsr()[:, known]
    pixels = np.maximum(shares.sum(axis=1), 1)[:, np.newaxis]
    features = seeds[known].astype(np.float64)
    means = shares @ features / pixels
    # Of differences from the window's mean: squares of the features would lose digits.
    centre = features.mean(axis=0) if len(features) else 0
    shift = np.where(shares.sum(axis=1)[:, np.newaxis] > 0, means - centre, 0)
    squares = shares @ (features - centre) ** 2 / pixels
    spread = np.sqrt(np.maximum(squares - shift**2, 0))
    return np.concatenate([means, spread], axis=1).astype(np.float32)
