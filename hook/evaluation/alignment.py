"""Alignment of two representations of the same images, whose rows are images.

References:
    Huh et al., "The platonic representation hypothesis", ICML 2024, arXiv:2405.07987: CKNNA.
    Song et al., "Feature selection via dependence maximization", JMLR 13, 2012: unbiased HSIC.
    VFM-VAE, arXiv:2510.18457: SE-CKNNA, the same on images changed in ways that keep their content
    (:mod:`hook.datasets.transforms.changes`).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def prepare_features(features: Tensor, quantile: float = 0.95, exact: bool = True) -> Tensor:
    """Clamp outliers and normalize rows.

    The clamp is entrywise, so the alignment of rotated features is below one.

    Args:
        features: (N, D).
        quantile: Share of the absolute values that are kept as they are.
        exact: Clamp at this quantile of the whole matrix; otherwise at the mean of the quantiles of
            the rows, interpolated.
    """
    sizes = features.abs()
    if exact:
        limit = sizes.flatten().sort().values[int(quantile * sizes.numel())]
    else:
        limit = sizes.quantile(quantile, dim=1).mean()
    return F.normalize(features.clamp(-limit, limit), dim=1)


def hsic(k: Tensor, l: Tensor, unbiased: bool = True) -> Tensor:  # noqa: E741 - as in the papers
    """Return the Hilbert-Schmidt independence criterion of two (N, N) kernels, without a factor.

    The unbiased estimate needs N of at least 4.
    """
    if not unbiased:
        k, l = (x - x.mean(dim=0) - x.mean(dim=1, keepdim=True) + x.mean() for x in (k, l))  # noqa: E741
        return (k * l.T).sum()
    m = len(k)
    k, l = (x - x.diag().diag() for x in (k, l))  # noqa: E741
    sums = (k * l.T).sum() + k.sum() * l.sum() / ((m - 1) * (m - 2))
    # The terms cancel: in float32 the result depends on how the last one is added up.
    return (sums - 2 * (k @ l).sum() / (m - 2)) / (m * (m - 3))


def _similarity(cross: Tensor, first: Tensor, second: Tensor) -> float:
    return float(cross / ((first * second).sqrt() + 1e-6))


def cka(a: Tensor, b: Tensor, unbiased: bool = False) -> float:
    """Return the centred kernel alignment of prepared features (N, D) and (N, E)."""
    k, l = a @ a.T, b @ b.T  # noqa: E741
    return _similarity(hsic(k, l, unbiased), hsic(k, k, unbiased), hsic(l, l, unbiased))


def cknna(a: Tensor, b: Tensor, topk: int = 10, unbiased: bool = True) -> float:
    """Return the kernel alignment over mutual nearest neighbours of prepared features.

    Unrelated features do not have 0 but, with 30 to 64 rows, .10 to .35: report N and a baseline of
    permuted rows beside it.

    Args:
        a: (N, D).
        b: (N, E).
        topk: Number of neighbours; without ``unbiased`` one of them is the row itself.
        unbiased: Estimate of the independence criterion.
    """
    k, l = a @ a.T, b @ b.T  # noqa: E741
    near_k, near_l = (_nearest(x, topk, not unbiased) for x in (k, l))

    def masked(x: Tensor, y: Tensor, near: Tensor) -> Tensor:
        return hsic(near * x, near * y, unbiased)

    return _similarity(masked(k, l, near_k * near_l), masked(k, k, near_k), masked(l, l, near_l))


def mutual_knn(a: Tensor, b: Tensor, topk: int = 10) -> float:
    """Return the mean share of nearest neighbours that two prepared features have in common."""
    near = _nearest(a @ a.T, topk) * _nearest(b @ b.T, topk)
    return float(near.sum() / (len(a) * topk))


def _nearest(kernel: Tensor, topk: int, with_self: bool = False) -> Tensor:
    """Mark the ``topk`` largest entries of each row; (N, N) of 0 and 1."""
    if not with_self:
        kernel = kernel.clone().fill_diagonal_(-torch.inf)
    return torch.zeros_like(kernel).scatter_(1, kernel.topk(topk, dim=1).indices, 1)


def permuted_cknna(a: Tensor, b: Tensor, topk: int = 10, draws: int = 10) -> float:
    """Return the mean CKNNA with the rows of ``b`` in random order: that of unrelated features."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(b), generator=generator) for _ in range(draws)]
    return float(np.mean([cknna(a, b[order.to(b.device)], topk) for order in orders]))
