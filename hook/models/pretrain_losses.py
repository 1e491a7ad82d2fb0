"""Losses that teach seeds and tokens without labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hook.errors import ConfigError
from hook.models.autoencoders.losses import AlignmentLoss, cell_weights, mean_of_cells
from hook.registry import MODELS
from hook.structures import ImageTokens
from hook.tokenizers import dense_features
from hook.tokenizers.positions import Fourier2d

# Positions per side at which seeds are aligned: the memory grows with the square of their number.
_MOST_POSITIONS = 16


@dataclass(frozen=True)
class Widths:
    """Sizes of a pretrained model that its losses need.

    Attributes:
        bands: Bands of the images.
        stride: Pixels per seed.
        seeds: Width of the seeds.
        tokens: Width of the tokens.
        features: Channels of the frozen maps, all together; 0 without a frozen network.
    """

    bands: int
    stride: int
    seeds: int
    tokens: int
    features: int


@dataclass
class PretrainPass:
    """A batch on its way through a :class:`hook.models.TokenPretrainer`: what its losses compare.

    Attributes:
        images: (B, C, H, W) normalised images, without colour jitter.
        valid: (B, H, W) bool, their valid pixels; None: all.
        tokens: (B, N, D) tokens after the last block, zero for those that an image lacks.
        weights: (B, N, h, w) weight of each token at each seed, zero for those that it lacks.
        assign: What the weights mean, see :class:`hook.tokenizers.TokenizerOutput`.
        seeds: (B, S, h, w) seeds before the tokens are read.
        maps: Frozen feature maps (B, C_l, h_l, w_l), standardised; empty without a network.
    """

    images: Tensor
    valid: Tensor | None
    tokens: Tensor
    weights: Tensor
    assign: str
    seeds: Tensor
    maps: Sequence[Tensor] = ()

    @classmethod
    def of(
        cls,
        tokens: Sequence[ImageTokens],
        images: Tensor,
        valid: Tensor | None,
        maps: Sequence[Tensor] = (),
    ) -> "PretrainPass":
        """Collect the tokens of a batch.

        Args:
            tokens: Those of each image; numbers may differ with ``assign="token"``.
            images: See the class, as for the other arguments.
            valid: Valid pixels.
            maps: Frozen feature maps.
        """
        return cls(
            images,
            valid,
            pad_sequence([one.embeddings for one in tokens], batch_first=True),
            pad_sequence([one.output.weights[0] for one in tokens], batch_first=True),
            tokens[0].output.assign,
            torch.cat([one.seeds.features for one in tokens]).permute(0, 3, 1, 2),
            maps,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the grid of seeds."""
        return tuple(self.weights.shape[-2:])

    def known(self, size: tuple[int, int]) -> Tensor | None:
        """Return the share of valid pixels (B, 1, h, w) in each cell of a grid; None: all are."""
        return None if self.valid is None else cell_weights(self.valid, size)

    def spread(self, values: Tensor) -> Tensor:
        """Give each seed the value of its token: (B, N, K) to (B, K, h, w)."""
        return dense_features(values, self.weights, self.grid, self.assign)

    def mean_of_tokens(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Average values of the seeds over the region of each token.

        Args:
            cells: (B, K, h, w).

        Returns:
            (B, N, K) means, and (B, N) bool: which tokens have a valid seed.
        """
        known = self.known(self.grid)
        weights = self.weights.detach()
        weights = weights if known is None else weights * known
        total = weights.sum((2, 3))
        shares = weights / total.clamp(min=torch.finfo(total.dtype).tiny)[..., None, None]
        return torch.einsum("bnhw,bkhw->bnk", shares, cells.to(shares.dtype)), total > 0

    def features(self, size: tuple[int, int]) -> Tensor:
        """Return the frozen maps on a grid, (B, C, *size): averaged, or enlarged bilinearly."""
        resized = [
            F.interpolate(one, size, mode="bilinear", align_corners=False)
            if one.shape[-1] < size[1]
            else F.adaptive_avg_pool2d(one, size)
            for one in self.maps
        ]
        return torch.cat(resized, dim=1)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of values (B, K, ...) with weights (B, 1, ...); 0 without any weight."""
    if weights is None:
        return values.mean()
    total = weights.expand_as(values).sum()
    return (values * weights).sum() / total.clamp(min=torch.finfo(total.dtype).tiny)


class PretrainLoss(nn.Module):
    """Base class of the losses of a :class:`hook.models.TokenPretrainer`.

    Args:
        widths: Sizes of the model.
        weight: Factor of the loss.

    Attributes:
        needs_frozen: Whether the loss needs a frozen network.

    Raises:
        ConfigError: The weight is not a positive number, or the loss needs a frozen network and
            the model has none.
    """

    needs_frozen = False

    def __init__(self, widths: Widths, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = _positive("weight", weight)
        if self.needs_frozen and not widths.features:
            raise ConfigError(
                f"model.losses: {type(self).__name__} compares features of a frozen network",
                expected="model.frozen=dict(type='hook.FrozenBackbone', ...), and the number of "
                "its channels as model.feature_channels",
                found="feature_channels=0",
                remedy="add them, or leave the loss out",
            )

    def forward(self, passed: PretrainPass) -> dict[str, Tensor]:
        """Return the weighted losses by name."""
        raise NotImplementedError


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ConfigError(
            f"model.losses: {name}",
            expected="a number above 0",
            found=value,
            remedy="correct it, or leave the loss out",
        )
    return value


@MODELS.register_module()
class SeedReconstruction(PretrainLoss):
    """Reconstruct each seed from its token: its pixels and, if there are any, frozen features.

    An MLP gets the token of the seed and the place of the seed in the region of the token: sines
    and cosines of the distance from its centroid. So a token has to know what its region looks
    like, and all seeds of a region have one token. Pixels are normalised per image and band, as
    MAE normalises patches, so that the error does not depend on brightness and contrast. The
    losses are mean squared errors, ``loss_pixels`` and ``loss_features``.

    Args:
        widths: Sizes of the model.
        weight: Factor of the pixels' loss.
        feature_weight: Factor of the features' loss.
        hidden_dims: Width of the MLP's two hidden layers.
        min_deviation: Added in quadrature to the deviation of the pixels of an image, in
            normalised units, so that noise of flat images does not count.

    Reference:
        Broadcast decoder and features as targets: Seitzer et al., "Bridging the gap to real-world
        object-centric learning" (DINOSAUR), ICLR 2023; normalised pixels: He et al., "Masked
        autoencoders are scalable vision learners", CVPR 2022.
    """

    def __init__(
        self,
        widths: Widths,
        weight: float = 1.0,
        feature_weight: float = 1.0,
        hidden_dims: int = 384,
        min_deviation: float = 0.1,
    ) -> None:
        super().__init__(widths, weight)
        self.feature_weight = _positive("feature_weight", feature_weight)
        self.stride, self.min_deviation = widths.stride, min_deviation
        self.pixels = widths.bands * widths.stride**2
        self.places = Fourier2d()
        self.mlp = nn.Sequential(
            nn.Linear(widths.tokens + self.places.dims, hidden_dims),
            nn.GELU(),
            nn.Linear(hidden_dims, hidden_dims),
            nn.GELU(),
            nn.Linear(hidden_dims, self.pixels + widths.features),
        )

    def forward(self, passed: PretrainPass) -> dict[str, Tensor]:
        """Return ``loss_pixels`` and, with a frozen network, ``loss_features``."""
        tokens = passed.spread(passed.tokens).permute(0, 2, 3, 1)
        predicted = self.mlp(torch.cat([tokens, self.place(passed)], dim=-1)).float()
        predicted = predicted.permute(0, 3, 1, 2)
        targets, known = self.targets(passed)
        pixels = (predicted[:, : self.pixels] - targets).unflatten(1, (-1, self.stride**2))
        known = None if known is None else known[:, None]  # B 1 s*s h w
        losses = {"loss_pixels": self.weight * weighted_mean(pixels.square(), known)}
        if passed.maps:
            error = (predicted[:, self.pixels :] - passed.features(passed.grid)).square()
            loss = weighted_mean(error, passed.known(passed.grid))
            losses["loss_features"] = self.feature_weight * loss
        return losses

    def place(self, passed: PretrainPass) -> Tensor:
        """Return the place of each seed relative to the centroid of its token, (B, h, w, P)."""
        ranges = [self.stride * torch.arange(n, device=passed.tokens.device) for n in passed.grid]
        places = torch.stack(torch.meshgrid(*ranges, indexing="ij")).to(passed.tokens.dtype)
        places = places.expand(len(passed.tokens), -1, -1, -1)
        centroids = passed.spread(passed.mean_of_tokens(places)[0])
        return self.places((places - centroids).permute(0, 2, 3, 1))

    def targets(self, passed: PretrainPass) -> tuple[Tensor, Tensor | None]:
        """Return the normalised pixels of each seed, (B, C * s * s, h, w), and which are valid.

        The second is (B, s * s, h, w), 1 or 0; None: all.
        """
        images, (h, w) = passed.images.float(), passed.grid
        mask = torch.ones_like(images[:, :1])
        if passed.valid is not None:
            mask = passed.valid[:, None].to(images.dtype)
            images = images.masked_fill(mask == 0, 0)
        count = mask.sum((2, 3), keepdim=True).clamp(min=1)
        centred = (images - images.sum((2, 3), keepdim=True) / count) * mask
        variance = centred.square().sum((2, 3), keepdim=True) / count
        normal = centred / (variance + self.min_deviation**2).sqrt()
        # A grid of seeds may be larger than the image, or leave its last rows and columns out.
        missing = (0, w * self.stride - images.shape[-1], 0, h * self.stride - images.shape[-2])
        normal, mask = (
            F.pixel_unshuffle(F.pad(one, missing), self.stride) for one in (normal, mask)
        )
        return normal, None if passed.valid is None and max(missing) <= 0 else mask


class _Alignment(PretrainLoss):
    """Base class of alignments with frozen features.

    Args:
        widths: Sizes of the model.
        weight: Factor of both terms.
        distance_margin: See :class:`hook.models.AlignmentLoss`.
        cosine_margin: See there.
    """

    needs_frozen = True

    def __init__(
        self,
        widths: Widths,
        weight: float = 0.5,
        distance_margin: float = 0.0,
        cosine_margin: float = 0.0,
    ) -> None:
        super().__init__(widths, weight)
        self.align = AlignmentLoss(
            self.width(widths),
            widths.features,
            distance_margin=distance_margin,
            cosine_margin=cosine_margin,
            adaptive=False,
        )

    def terms(self, ours: Tensor, theirs: Tensor, valid: Tensor | None) -> Tensor:
        """Return the weighted sum of the terms of :meth:`hook.models.AlignmentLoss.terms`."""
        distance, cosine = self.align.terms(ours, theirs, valid)
        return self.weight * (distance + cosine)


@MODELS.register_module()
class SeedAlignment(_Alignment):
    """VA-VAE's alignment of seeds, before tokens are read, with features of a frozen network.

    A linear layer maps the seeds to the features; see :class:`hook.models.AlignmentLoss`. Both
    are averaged over the coarser of their two grids, and over at most 16 x 16 positions.

    Args:
        widths: Sizes of the model.
        weight: Factor of the loss.
        distance_margin: See :class:`hook.models.AlignmentLoss`.
        cosine_margin: See there.

    Reference:
        Yao et al. (2025), arXiv:2501.01423, equations 3 to 7.
    """

    @staticmethod
    def width(widths: Widths) -> int:
        """Return the width of the seeds."""
        return widths.seeds

    def forward(self, passed: PretrainPass) -> dict[str, Tensor]:
        """Return ``loss_seeds``."""
        finest = [max(one.shape[axis] for one in passed.maps) for axis in (2, 3)]
        pairs = zip(passed.grid, finest, strict=True)
        size = tuple(min(*pair, _MOST_POSITIONS) for pair in pairs)
        known = passed.known(passed.grid)
        seeds = mean_of_cells(passed.seeds, None if known is None else known[:, 0], size)
        return {"loss_seeds": self.terms(seeds, passed.features(size), passed.valid)}


@MODELS.register_module()
class TokenAlignment(_Alignment):
    """VA-VAE's alignment of tokens, after the last block, with frozen features of their regions.

    The features are averaged over the seeds of each token, weighted by valid pixels; see
    :class:`SeedAlignment`.

    Args:
        widths: Sizes of the model.
        weight: Factor of the loss.
        distance_margin: See :class:`hook.models.AlignmentLoss`.
        cosine_margin: See there.

    Reference:
        Yao et al. (2025), arXiv:2501.01423, equations 3 to 7.
    """

    @staticmethod
    def width(widths: Widths) -> int:
        """Return the width of the tokens."""
        return widths.tokens

    def forward(self, passed: PretrainPass) -> dict[str, Tensor]:
        """Return ``loss_tokens``."""
        features, known = passed.mean_of_tokens(passed.features(passed.grid))
        ours, theirs = (one.mT[..., None] for one in (passed.tokens, features))  # B K N 1
        return {"loss_tokens": self.terms(ours, theirs, known[..., None])}
