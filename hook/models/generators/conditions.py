"""Conditions of generators: classes, and maps of classes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.errors import ConfigError

CONDITIONS = ("none", "class", "map")


class ConditionEmbedding(nn.Module):
    """A condition of an image: its class, a class for each position, or none.

    The last row of the table stands for an unknown class. In training it replaces the condition of
    a share of the images, so that one network has both sides of classifier-free guidance.

    Args:
        embed_dims: Width of the tokens.
        kind: ``"none"``, ``"class"`` (labels (B,)), or ``"map"`` (labels (B, h, w) on the grid of
            the tokens).
        num_classes: Number of classes.
        drop_rate: Share of the images without their condition. With 0, a class has no unknown row,
            and that of maps is of single positions.

    Attributes:
        unknown: Label of an unknown class; None if there is none.

    Raises:
        ConfigError: ``kind`` is unknown, or there are no classes.

    Reference:
        Ho and Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598.
    """

    def __init__(
        self, embed_dims: int, kind: str = "none", num_classes: int = 0, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        if kind not in CONDITIONS:
            raise ConfigError(
                "model.condition is unknown",
                expected=CONDITIONS,
                found=kind,
                remedy="choose one of them",
            )
        if kind != "none" and num_classes < 1:
            raise ConfigError(
                f"model.condition={kind!r} needs classes",
                expected="model.num_classes of at least 1",
                found=num_classes,
                remedy="set num_classes to the number of classes of the data set",
            )
        if not 0 <= drop_rate < 1:
            raise ConfigError(
                "model.label_drop",
                expected="a share from 0 to below 1",
                found=drop_rate,
                remedy="correct it, 0.1 is usual",
            )
        if kind == "none":  # one row for all images
            num_classes, drop_rate = 1, 0.0
        self.kind, self.num_classes, self.drop_rate = kind, num_classes, drop_rate
        self.unknown = num_classes if drop_rate > 0 or kind == "map" else None
        self.table = nn.Embedding(num_classes + (self.unknown is not None), embed_dims)

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embed conditions.

        Args:
            labels: (B,), or (B, h, w) for maps, int64.

        Returns:
            (B, 1, D) of the image, for maps the mean over the positions; and (B, h * w, D) of the
            positions, None but for maps.
        """
        if self.training and self.drop_rate > 0:
            dropped = torch.rand(len(labels), device=labels.device) < self.drop_rate
            labels = labels.masked_fill(dropped.view(-1, *[1] * (labels.ndim - 1)), self.unknown)
        rows = self.table(labels)
        if self.kind != "map":
            return rows[:, None], None
        cells = rows.flatten(1, 2)
        return cells.mean(dim=1, keepdim=True), cells

    def unknowns(self, labels: Tensor) -> Tensor:
        """Return labels of unknown classes, of the shape of other labels.

        Raises:
            ConfigError: The network has learned no unknown condition.
        """
        if self.drop_rate == 0:
            raise ConfigError(
                "guidance, and images without a condition, need an unknown class",
                expected="a network that was trained with label_drop above 0",
                found=f"condition={self.kind!r}, label_drop={self.drop_rate}",
                remedy="sample with guidance=1 and conditions, or train with label_drop=0.1",
            )
        return torch.full_like(labels, self.unknown)

    def from_labels(self, labels: Tensor, ignore_index: int, grid: tuple[int, int]) -> Tensor:
        """Return conditions for labels of a data set.

        Args:
            labels: (B,) classes, or (B, H, W) classes of pixels.
            ignore_index: Label of an unknown class.
            grid: Height and width (h, w) of the positions of maps, divisors of H and W.

        Returns:
            (B,), or (B, h, w): the most frequent known class in the square of each position.

        Raises:
            ConfigError: There is no such class, or no unknown class.
        """
        unknown = labels == ignore_index
        known = labels[~unknown]
        if known.numel() and not 0 <= known.min() <= known.max() < self.num_classes:
            raise ConfigError(
                "a label is none of the classes of the generator",
                expected=f"0 to {self.num_classes - 1} (model.num_classes - 1), or "
                f"{ignore_index} for unknown",
                found=f"{int(known.min())} to {int(known.max())}",
                remedy="correct num_classes, or the labels",
            )
        if labels.ndim == 3:
            counts = torch.stack(
                [
                    F.adaptive_avg_pool2d((labels == number).float(), grid)
                    for number in range(self.num_classes)
                ]
            )
            labels, unknown = counts.argmax(dim=0), counts.sum(dim=0) == 0
            return labels.where(~unknown, self.unknown)
        return labels.where(~unknown, self.unknowns(labels)) if unknown.any() else labels
