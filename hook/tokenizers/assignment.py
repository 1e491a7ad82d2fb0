"""Token maps and dense features from an assignment."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def token_map(
    assignment: Tensor, size: tuple[int, int] | None = None, cell: int | None = None
) -> Tensor:
    """Return the token with the largest weight at each cell or pixel.

    Args:
        assignment: (B, N, h, w) weights.
        size: Height and width of the images, for a token per pixel; None returns one per cell.
        cell: See :func:`spread_cells`.

    Returns:
        (B, h, w) or (B, H, W) int64 index of the token, class token not counted.
    """
    # The paper first rescales each cell's weights to [0, 1], which does not change the argmax.
    token_ids = assignment.argmax(dim=1)
    return token_ids if size is None else spread_cells(token_ids, size, cell)


def spread_cells(cells: Tensor, size: tuple[int, int], cell: int | None = None) -> Tensor:
    """Upsample values of cells to the pixels of an image, nearest neighbour.

    Args:
        cells: (..., h, w) values on the tokenizer's grid, from the image's top left corner.
        size: Height and width of the image in pixels.
        cell: Side of a cell in pixels. Rows and columns beyond the grid, which a patch embedding
            leaves out, get the nearest value. None stretches the grid over the image.

    Returns:
        (..., H, W).
    """
    rows, columns = (
        torch.arange(length, device=cells.device) * number // length
        if cell is None
        else (torch.arange(length, device=cells.device) // cell).clamp(max=number - 1)
        for length, number in zip(size, cells.shape[-2:], strict=True)
    )
    return cells[..., rows[:, None], columns]


def mean_colours(
    images: Tensor, cell: int, grid: tuple[int, int], valid: Tensor | None = None
) -> Tensor:
    """Return the mean of each band over the valid pixels of each cell.

    Args:
        images: (B, C, H, W) normalised images.
        cell: Side of a cell in pixels.
        grid: Height and width of the grid in cells; may be smaller or larger than the image.
        valid: (B, H, W) bool; None: all pixels are valid.

    Returns:
        (B, C, h, w); zero where no pixel is valid.
    """
    missing = (0, grid[1] * cell - images.shape[-1], 0, grid[0] * cell - images.shape[-2])
    mask = torch.ones_like(images[:, :1]) if valid is None else valid[:, None].to(images.dtype)
    if valid is not None:
        images = images.masked_fill(~valid[:, None], 0)
    share = F.avg_pool2d(F.pad(mask, missing), cell)
    means = F.avg_pool2d(F.pad(images, missing), cell)
    return means / share.clamp(min=1 / cell**2)


def seed_ownership(assignment: Tensor) -> Tensor:
    """Convert attention (B, N, h, w) that sums to one over seeds to weights that sum to one over N.

    Each cell's N weights are rescaled to [0, 1] by their minimum and maximum and passed through
    a softmax. Where all are equal the paper divides by zero; here they share the cell equally.
    """
    low = assignment.amin(dim=1, keepdim=True)
    span = assignment.amax(dim=1, keepdim=True) - low
    rescaled = (assignment - low) / torch.where(span > 0, span, torch.ones_like(span))
    return rescaled.softmax(dim=1)


def explained_variance(features: Tensor, token_ids: Tensor) -> Tensor:
    """Compute the share of the variance of seeds that a partition of them explains.

    Args:
        features: (B, S, D) seeds.
        token_ids: (B, S) int64 region of each seed; seeds with a negative id are ignored.

    Returns:
        (B,) one minus the variance within the regions over the variance of all seeds, from 0 to
        1; 1 where all seeds are equal.
    """
    known = (token_ids >= 0)[..., None]
    count = known.sum(dim=1, keepdim=True).clamp(min=1)
    features = features.masked_fill(~known, 0)
    centred = (features - features.sum(dim=1, keepdim=True) / count).masked_fill(~known, 0)
    total = centred.square().sum(dim=(1, 2))
    member = F.one_hot(token_ids.clamp(min=0)).to(features.dtype) * known  # B S N
    size = member.sum(dim=1).clamp(min=1)  # B N
    means = member.transpose(1, 2) @ centred / size[..., None]  # B N D
    between = (means.square().sum(dim=-1) * member.sum(dim=1)).sum(dim=1)
    return torch.where(total > 0, between / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0)


def diffuse_assignment(
    assignment: Tensor,
    colours: Tensor,
    steps: int,
    contrast: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Smooth an assignment by anisotropic diffusion between cells of similar colour.

    Each step moves weight between 4-connected cells, less where their colours differ more, which
    removes fragments and preserves edges of the image. Sums are conserved: weights that sum to one
    over the tokens of a cell, or over the cells of a token, still do.

    Args:
        assignment: (B, N, h, w) weights.
        colours: (B, C, h, w) mean bands of the cells, in normalised units.
        steps: Number of steps; weight travels about ``sqrt(steps / 2)`` cells without edges.
        contrast: Root mean square difference of the bands at which the flow is reduced to 61 %.
        valid: (B, h, w) bool; invalid cells exchange no weight. None: all cells are valid.

    Returns:
        (B, N, h, w) float32 weights.

    Reference:
        Perona & Malik, "Scale-space and edge detection using anisotropic diffusion", IEEE TPAMI
        12(7), 1990, with their first edge-stopping function on the image's edges.
    """
    rate = 0.2  # the explicit scheme on four neighbours is stable below 1/4
    weights = assignment.float()
    gates = []
    for axis in (-1, -2):
        length = colours.shape[axis] - 1
        step = colours.narrow(axis, 1, length) - colours.narrow(axis, 0, length)
        gate = rate * torch.exp(
            -step.float().square().mean(dim=1, keepdim=True) / (2 * contrast**2)
        )
        if valid is not None:
            both = valid.narrow(axis, 1, length) & valid.narrow(axis, 0, length)
            gate = gate.masked_fill(~both[:, None], 0)
        gates.append(gate)
    for _ in range(steps):
        flow_x = gates[0] * weights.diff(dim=-1)
        flow_y = gates[1] * weights.diff(dim=-2)
        weights = (
            weights
            + (F.pad(flow_x, (0, 1)) - F.pad(flow_x, (1, 0)))
            + (F.pad(flow_y, (0, 0, 0, 1)) - F.pad(flow_y, (0, 0, 1, 0)))
        )
    return weights


def dense_features(
    tokens: Tensor, assignment: Tensor, size: tuple[int, int], assign: str = "seed"
) -> Tensor:
    """Project tokens back to a grid through their assignment.

    Args:
        tokens: (B, N, D) tokens without the class token.
        assignment: (B, N, h, w) weights of the tokens.
        size: Height and width of the grid to fill.
        assign: What the weights mean (see :class:`TokenizerOutput`). ``"seed"`` is the paper's
            dense path: nearest-neighbour resize, min-max and softmax over the tokens, detached
            from the graph. ``"token"``: bilinear resize of the weights, with gradients.
            ``"grid"`` puts token i into cell i.

    Returns:
        (B, D, H, W) features.

    Raises:
        ValueError: The number of tokens and of assignment rows differ, or ``assign`` is unknown.
    """
    n = tokens.shape[1]
    if assignment.shape[1] != n:
        raise ValueError(
            f"dense_features got {n} tokens but an assignment of {assignment.shape[1]}; "
            "leave out the class token"
        )
    if assign == "grid":
        return grid_features(tokens, tuple(assignment.shape[-2:]), size)
    if assign == "seed":
        weights = seed_ownership(F.interpolate(assignment, size=size, mode="nearest")).detach()
        return torch.einsum("bnd,bnhw->bdhw", tokens, weights)
    if assign == "token":
        if assignment.shape[-2:] != tuple(size):
            assignment = F.interpolate(
                assignment, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        return torch.einsum("bnd,bnhw->bdhw", tokens, assignment)
    raise ValueError(f"assign must be 'seed', 'token' or 'grid', got {assign!r}")


def grid_features(tokens: Tensor, grid_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Map tokens (B, h * w, D) to a grid (h, w), resized bilinearly: (B, D, *size)."""
    features = tokens.transpose(1, 2).unflatten(2, grid_size)
    if grid_size != tuple(size):
        features = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
    return features


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, ...) to ``size``, nearest neighbour."""
    rows = (np.arange(size[0]) + 0.5) * array.shape[0] / size[0]
    cols = (np.arange(size[1]) + 0.5) * array.shape[1] / size[1]
    return array[rows.astype(np.int64)[:, None], cols.astype(np.int64)[None]]
