"""Loss that teaches a tokenizer of regions where objects end."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.registry import MODELS
from hook.structures import ImageTokens
from hook.tokenizers import merge_seeds
from hook.tokenizers.hierarchy import uncompiled

# Rows and columns, in seeds, between the two seeds of a pair.
_OFFSETS = (
    (0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0),
    (3, 3), (3, -3), (0, 4), (4, 0), (0, 8), (8, 0),
)  # fmt: skip


@MODELS.register_module()
class RegionLoss(nn.Module):
    """Binary cross entropy of whether two nearby seeds belong to one object.

    The merges of seeds have no gradient; this loss teaches the learned features of
    :meth:`hook.tokenizers.HookTokenizer.grouping` instead: the logit of a pair is a learned margin
    minus the squared distance of the two seeds' features. Pairs are 1 to 8 seeds apart.

    Args:
        loss_weight: Factor of the loss.
        from_labels: The target is the probability that a pixel of one seed and one of the other
            have the same label. Without labels, two seeds belong to one object if a region of the
            hierarchy by colour alone, with 16 to 64 seeds on average, holds both.
        different_weight: Weight of pairs of different objects, which are few.
        share: Learn from this share of the images of a batch, rounded up, the first ones. Less than
            1 saves time, above all without labels, and memory.

    Raises:
        ConfigError: A weight is not a positive number, ``share`` not in (0, 1]; in use,
            ``from_labels`` without masks.

    Reference:
        Learning of boundaries for object tokens: Chen et al., "Subobject-level image tokenization"
        (EPOC), ICML 2025; distances as logits: De Brabandere et al., "Semantic instance
        segmentation with a discriminative loss function", 2017.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        from_labels: bool = True,
        different_weight: float = 3.0,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, fits, expected in (
            ("loss_weight", loss_weight, 0 < loss_weight < math.inf, "above 0"),
            ("different_weight", different_weight, 0 < different_weight < math.inf, "above 0"),
            ("share", share, 0 < share <= 1, "above 0 and at most 1"),
        ):
            if not fits:
                raise ConfigError(
                    f"model.region_loss.{name}",
                    expected=f"a number {expected}",
                    found=value,
                    remedy="correct it, or leave region_loss out",
                )
        self.loss_weight, self.from_labels = loss_weight, from_labels
        self.different_weight, self.share = different_weight, share
        self.margin = nn.Parameter(torch.tensor(1.0))

    def forward(
        self,
        tokenizer: nn.Module,
        tokens: list[ImageTokens],
        labels: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Compute the loss.

        Args:
            tokenizer: A :class:`hook.tokenizers.HookTokenizer` of the preset ``"objects"``.
            tokens: Tokens of B images, of the same size.
            labels: (B, H, W) class of each pixel; needed with ``from_labels``.
            ignore_index: Label of pixels that are unknown.
        """
        if self.from_labels and labels is None:
            raise ConfigError(
                "model.region_loss learns from masks, and the samples have none",
                expected="from_labels=False for scene classification",
                found="from_labels=True",
                remedy="set model.region_loss.from_labels to False",
            )
        features = torch.cat([one.seeds.features for one in tokens])
        known = torch.cat(
            [
                torch.ones_like(one.seeds.features[..., 0], dtype=torch.bool)
                if one.seeds.valid is None
                else one.seeds.valid
                for one in tokens
            ]
        )
        count = math.ceil(self.share * len(features))
        features, known = features[:count], known[:count]
        if self.from_labels:
            shares, labelled = label_shares(
                labels[:count], known.shape[1:], tokenizer.stride, ignore_index
            )
            known = known & labelled
        else:
            colours = torch.cat([one.seeds.colours for one in tokens])[:count]
            objects = regions_of_colour(colours.permute(0, 2, 3, 1), known)
        groups = tokenizer.group(features).permute(3, 0, 1, 2)  # G B h w
        total = weights = groups.new_zeros(())
        height, width = groups.shape[-2:]
        for down, right in _OFFSETS:
            if down >= height or abs(right) >= width:
                continue
            one = (..., slice(0, height - down), slice(max(0, -right), width - max(0, right)))
            other = (..., slice(down, height), slice(max(0, right), width - max(0, -right)))
            if self.from_labels:
                same = (shares[one] * shares[other]).sum(dim=1).clamp(0, 1)
            else:
                same = (objects[one] == objects[other]).to(groups.dtype)
            distance = (groups[one] - groups[other]).square().sum(dim=0)
            loss = F.binary_cross_entropy_with_logits(
                self.margin - distance.float(), same.float(), reduction="none"
            )
            weight = torch.where(same < 0.5, self.different_weight, 1.0)
            weight = weight * (known[one] & known[other])
            total, weights = total + (loss * weight).sum(), weights + weight.sum()
        return self.loss_weight * total / weights.clamp(min=1)


@uncompiled  # else each number of regions is compiled anew
def regions_of_colour(colours: Tensor, valid: Tensor) -> Tensor:
    """Return regions (B, h, w) of seeds by colour (B, h, w, C), of 16 to 64 seeds on average."""
    count = max(round(valid[0].numel() / 16 * 0.25 ** float(torch.rand(()))), 1)
    return merge_seeds(colours.float().cpu(), valid.cpu()).cut(count).to(colours.device)


def label_shares(
    labels: Tensor, grid: tuple[int, int], cell: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return the share of each class in the labelled pixels of each cell.

    Args:
        labels: (B, H, W) classes.
        grid: Height h and width w of the grid in cells.
        cell: Side of a cell in pixels.
        ignore_index: Label of pixels that are unknown.

    Returns:
        (B, K, h, w) shares, K being the classes that occur, and (B, h, w) bool, where at least half
        of a cell is labelled.
    """
    missing = (0, grid[1] * cell - labels.shape[-1], 0, grid[0] * cell - labels.shape[-2])
    labels = F.pad(labels, missing, value=ignore_index)
    known = labels != ignore_index
    classes = int(labels.where(known, 0).max()) + 1
    pixels = F.one_hot(labels.where(known, classes), classes + 1)[..., :classes]
    shares = F.avg_pool2d(pixels.permute(0, 3, 1, 2).float(), cell)
    sums = shares.sum(dim=1)
    return shares / sums.clamp(min=1 / cell**2)[:, None], sums >= 0.5
