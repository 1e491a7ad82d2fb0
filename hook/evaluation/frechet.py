"""Fréchet distance of two sets of features."""

import numpy as np

from hook.errors import DataError


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the squared Fréchet distance of the normal distributions of two sets of features.

    ``|m - n|^2 + trace(S + T - 2 (S T)^(1/2))`` of means m, n and covariances S, T. Both are
    estimated, so that two sets of the same distribution have a distance above 0, the larger, the
    fewer they are: report that of real images of the same number beside it.

    Args:
        first: (N, D), at least two rows.
        second: (M, D), likewise.

    Raises:
        DataError: The features do not fit each other, are too few, or not finite.

    Reference:
        Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982;
        of features of Inception-v3: Heusel et al., "GANs trained by a two time-scale update rule
        converge to a local Nash equilibrium", NeurIPS 2017, arXiv:1706.08500 (FID).
    """
    sets = [np.asarray(one, np.float64) for one in (first, second)]
    shapes = [one.shape for one in sets]
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise DataError(
            "the Fréchet distance needs two sets of features",
            expected="(N, D) and (M, D), with at least two rows each",
            found=f"{shapes[0]} and {shapes[1]}",
            remedy="use more images, and the same network for both",
        )
    if not all(np.isfinite(one).all() for one in sets):
        raise DataError(
            "the Fréchet distance needs finite features",
            found="NaN or infinity",
            remedy="check the images: those of a diverged generator are not finite",
        )
    step = sets[0].mean(axis=0) - sets[1].mean(axis=0)
    # np.cov of a single channel is a number.
    s, t = (np.atleast_2d(np.cov(one, rowvar=False)) for one in sets)
    values, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    # (S T)^(1/2) has the trace of (S^(1/2) T S^(1/2))^(1/2), which is symmetric.
    cross = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(min=0)).sum()
    return float(max(step @ step + np.trace(s) + np.trace(t) - 2 * cross, 0.0))
