"""Where a seed is: learned positions that can be resized, and rotary ones that need not be."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize_positions(positions: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resize learned positions to another grid, bicubic.

    Args:
        positions: (1, h * w, D) positions in row-major order.
        grid: Height h and width w of their grid.
        size: Height and width of the new grid.

    Returns:
        (1, height * width, D) positions; the same tensor where the grid is the same.
    """
    if tuple(grid) == tuple(size):
        return positions
    maps = positions.reshape(1, *grid, -1).permute(0, 3, 1, 2).float()
    maps = F.interpolate(maps, size=size, mode="bicubic", antialias=True, align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(positions.dtype)


class Rotary2d(nn.Module):
    """Rotary position embedding over rows and columns.

    A head's features i and i + head_dims / 2 are a pair that turns together; half of the pairs turn
    with the row, the others with the column. So the product of a query and a key depends on how far
    apart they are and in which direction, not on where they are. It has no weights.

    Args:
        head_dims: Width of an attention head; a multiple of 4.
        wavelengths: Shortest and longest wavelength, in pixels; the others lie between them in
            geometric progression.

    Raises:
        ValueError: ``head_dims`` is no multiple of 4.

    Reference:
        Su et al., "RoFormer", 2021; in two axes as in Heo et al., "Rotary position embedding for
        vision transformer", ECCV 2024.
    """

    def __init__(self, head_dims: int, wavelengths: tuple[float, float] = (8.0, 256.0)) -> None:
        super().__init__()
        if head_dims % 4:
            raise ValueError(
                f"rotary positions need attention heads of a width that 4 divides, got {head_dims}"
            )
        shortest, longest = (math.log(value) for value in wavelengths)
        count = head_dims // 4
        steps = torch.linspace(0, 1, count) if count > 1 else torch.zeros(1)
        waves = torch.exp(shortest + steps * (longest - shortest))
        self.register_buffer("frequencies", 2 * math.pi / waves, persistent=False)

    def angles(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Give the angles of positions in pixels.

        Args:
            rows: (..., n) rows.
            columns: (..., n) columns.

        Returns:
            (..., n, head_dims / 2) angles in radians.
        """
        return torch.cat(
            [rows[..., None] * self.frequencies, columns[..., None] * self.frequencies], dim=-1
        )

    @staticmethod
    def rotate(x: Tensor, angles: Tensor) -> Tensor:
        """Turn features by their angles.

        Args:
            x: (..., n, head_dims) queries or keys.
            angles: (..., n, head_dims / 2), broadcast against ``x``.
        """
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
