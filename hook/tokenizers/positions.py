"""Position embeddings of seeds: resizing of learned ones, and rotary ones."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize_positions(
    positions: Tensor, grid: tuple[int, int], size: tuple[int, int], mode: str = "bicubic"
) -> Tensor:
    """Resize learned positions to a different grid, without aliasing.

    Args:
        positions: (1, h * w, D) positions in row-major order.
        grid: Height h and width w of their grid.
        size: Height and width of the new grid.
        mode: ``"bicubic"`` or ``"bilinear"``.

    Returns:
        (1, height * width, D) positions; the same tensor if the grid is the same.
    """
    if tuple(grid) == tuple(size):
        return positions
    maps = positions.reshape(1, *grid, -1).permute(0, 3, 1, 2).float()
    maps = F.interpolate(maps, size=size, mode=mode, antialias=True, align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(positions.dtype)


def fit_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """Resize learned positions of another image size, as timm's ``resample_abs_pos_embed``.

    Args:
        positions: (1, N, D) positions, of a square or of an image of the proportions of ``grid``.
        grid: Height and width of the new grid.

    Returns:
        (1, height * width, D) positions; None if N positions are neither.
    """
    count, (height, width) = positions.shape[1], grid
    side = math.isqrt(count)
    if side * side == count and height == width:
        return resize_positions(positions, (side, side), grid)
    rows = round(math.sqrt(count * height / width))
    if rows and count == rows * round(rows * width / height):
        return resize_positions(positions, (rows, count // rows), grid)
    return resize_positions(positions, (side, side), grid) if side * side == count else None


class Rotary2d(nn.Module):
    """Rotary position embedding over rows and columns.

    Features i and i + head_dims / 2 of a head are rotated as a pair, half of the pairs by the row,
    the others by the column, so the product of a query and a key depends on their relative
    position only. It has no weights.

    Args:
        head_dims: Width of an attention head; a multiple of 4.
        wavelengths: Shortest and longest wavelength in pixels, of a geometric progression.

    Raises:
        ValueError: ``head_dims`` is not a multiple of 4.

    Reference:
        Su et al., "RoFormer", 2021; in two axes as in Heo et al., "Rotary position embedding for
        vision transformer", ECCV 2024.
    """

    def __init__(self, head_dims: int, wavelengths: tuple[float, float] = (8.0, 256.0)) -> None:
        super().__init__()
        if head_dims % 4:
            raise ValueError(f"rotary positions need a head width divisible by 4, got {head_dims}")
        shortest, longest = (math.log(value) for value in wavelengths)
        count = head_dims // 4
        steps = torch.linspace(0, 1, count) if count > 1 else torch.zeros(1)
        waves = torch.exp(shortest + steps * (longest - shortest))
        self.register_buffer("frequencies", 2 * math.pi / waves, persistent=False)

    def angles(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Map rows and columns (..., n) in pixels to angles (..., n, head_dims / 2) in radians."""
        return torch.cat(
            [rows[..., None] * self.frequencies, columns[..., None] * self.frequencies], dim=-1
        )

    @staticmethod
    def rotate(x: Tensor, angles: Tensor) -> Tensor:
        """Rotate queries or keys (..., n, head_dims) by angles (..., n, head_dims / 2)."""
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class RotaryAxes:
    """Rotary position embedding over any number of axes, without weights.

    Adjacent channels are a pair. The first pairs turn with the first axis, as many with each
    following one.

    Args:
        head_dims: Width of an attention head; a multiple of 8 (2 per axis) for four axes.
        ranges: Shortest and longest wavelength on each axis, in its unit, of a geometric
            progression; None for the official form of AToken: four axes in numbers of patches,
            10000^(-k / head_dims) radians per patch, computed in float32.

    Attributes:
        head_dims: As given.
        ranges: As given, as floats.

    Raises:
        ValueError: ``head_dims`` is no multiple of two times the number of axes, or a range is
            not increasing.

    Reference:
        Lu et al., "AToken: a unified tokenizer for vision", 2025, arXiv:2509.14476.
    """

    def __init__(self, head_dims: int, ranges: Sequence[tuple[float, float]] | None = None) -> None:
        axes = 4 if ranges is None else len(ranges)
        count, rest = divmod(head_dims, 2 * axes)
        if rest or not count:
            raise ValueError(
                f"rotary positions on {axes} axes need heads whose width is a multiple of "
                f"{2 * axes}, got {head_dims}"
            )
        self.head_dims = head_dims
        self.ranges = None if ranges is None else [tuple(map(float, one)) for one in ranges]
        if ranges is None:
            steps = torch.arange(count, dtype=torch.float32) / head_dims
            self.frequencies = (1.0 / 10000**steps).expand(axes, -1)
            return
        # Days since 1970 turn the fast pairs thousands of times: float32 would lose the angle.
        steps = torch.linspace(0, 1, count, dtype=torch.float64)
        rows = []
        for shortest, longest in ranges:
            if not 0 < shortest <= longest:
                raise ValueError(
                    "a range is the shortest and the longest wavelength, above 0, got "
                    f"{shortest} and {longest}"
                )
            rows.append(2 * math.pi / (shortest * (longest / shortest) ** steps))
        self.frequencies = torch.stack(rows)

    def angles(self, positions: Tensor) -> Tensor:
        """Map positions (..., axes) to angles (..., head_dims / 2) in radians."""
        frequencies = self.frequencies.to(positions.device)
        return (positions.to(frequencies)[..., None] * frequencies).flatten(-2)

    def table(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosine and sine (M, 1, head_dims / 2) at positions (M, axes), for all heads."""
        angles = self.angles(positions)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)

    @staticmethod
    def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """Rotate queries or keys (M, heads, head_dims) by a :meth:`table`."""
        (cos, sin), (first, second) = table, x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = first * cos - second * sin, first * sin + second * cos
        return torch.stack(turned, dim=-1).flatten(-2)


class Fourier2d(nn.Module):
    """Sines and cosines of rows and columns, at wavelengths from 16 pixels, each four times longer.

    Args:
        count: Number of wavelengths.

    Attributes:
        dims (int): Width of the embedding.
    """

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.dims = 4 * count
        frequencies = 2 * math.pi / (16 * 4.0 ** torch.arange(count))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        """Map rows and columns (..., 2) in pixels to (..., dims)."""
        angles = (places[..., None] * self.frequencies).flatten(-2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
