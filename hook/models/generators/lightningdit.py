"""LightningDiT: a diffusion transformer that learns a rectified flow from noise to latents."""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from timm.layers import GluMlp, Mlp, build_sincos2d_pos_embed
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.models.generators.blocks import (
    SHIFTS_FIRST,
    Attention,
    Block,
    FinalNorm,
    Modulation,
    rotary_table,
)
from hook.models.generators.conditions import ConditionEmbedding
from hook.models.generators.sampling import FlowSampling, changed, check_finite, guide
from hook.quantizers.base import masked_mean
from hook.registry import MODELS

_EPS = 1e-6
_FREQUENCIES = 128  # of the embedding of times


@dataclass(frozen=True)
class FlowTimes:
    """Times of training: sigmoid of a normal variable, or uniform.

    Attributes:
        mean: Mean of the normal variable.
        std: Its standard deviation.
        limits: Only times from the first to the second are kept; None: all.
        uniform: Uniform from 0 to 1 instead.

    Reference:
        Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis",
        ICML 2024, arXiv:2403.03206.
    """

    mean: float = 0.0
    std: float = 1.0
    limits: tuple[float, float] | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        low, high = self.limits or (0, 1)
        if self.std <= 0 or not 0 <= low < high <= 1 or not self._share() > 1e-3:
            raise ConfigError(
                "model.network.times",
                expected="std above 0, and limits from 0 to 1, the lower one first, between which "
                "are more than one in a thousand times",
                found=f"mean={self.mean}, std={self.std}, limits={self.limits}",
                remedy="correct them",
            )

    def _share(self) -> float:
        """Return the share of the times between the limits."""
        low, high = self.limits or (0, 1)
        normal = NormalDist(self.mean, self.std)
        below = normal.cdf(math.log(low / (1 - low))) if low > 0 else 0.0
        return (normal.cdf(math.log(high / (1 - high))) if high < 1 else 1.0) - below

    def draw(self, count: int, normals: Callable[[int], Tensor] = torch.randn) -> Tensor:
        """Return times (count,).

        Args:
            count: How many.
            normals: Function that draws so many standard normal numbers.
        """
        if self.uniform:
            return torch.rand(count)
        low, high = self.limits or (0, 1)
        kept = torch.empty(0)
        while len(kept) < count:
            times = torch.sigmoid(self.mean + self.std * normals(count))
            kept = torch.cat([kept, times[(times >= low) & (times <= high)]])
        return kept[:count]


class TimeEmbedding(nn.Module):
    """Cosines and sines of times from 0 to 1, and an MLP.

    Args:
        embed_dims: Width of the result.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, embed_dims), nn.SiLU(), nn.Linear(embed_dims, embed_dims)
        )

    def forward(self, times: Tensor) -> Tensor:
        """Map times (B,) to (B, D)."""
        steps = torch.arange(_FREQUENCIES, device=times.device) / _FREQUENCIES
        angles = times[:, None] * 10000.0**-steps
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class InnerAlignment(nn.Module):
    """Loss that draws the tokens after a block of a flow towards features of a frozen network.

    An MLP maps the tokens to the width of the features; the loss is one minus the cosine, averaged
    over positions.

    Args:
        embed_dims: Width of the tokens.
        block: Number of the block, from 0.
        feature_channels: Channels of the features.
        hidden_dims: Hidden width of the MLP; None: that of the features.
        weight: Factor of the loss.

    Reference:
        Yu et al., "Representation alignment for generation", ICLR 2025, arXiv:2410.06940; with the
        features that the autoencoder is made of: VFM-VAE, arXiv:2510.18457.
    """

    def __init__(
        self,
        embed_dims: int,
        block: int,
        feature_channels: int,
        hidden_dims: int | None = None,
        weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.block, self.feature_channels, self.weight = block, feature_channels, weight
        hidden_dims = hidden_dims or feature_channels
        self.mlp = Mlp(embed_dims, hidden_dims, feature_channels, act_layer=nn.SiLU)

    def forward(
        self, tokens: Tensor, features: Tensor, grid: Sequence[int], valid: Tensor | None = None
    ) -> Tensor:
        """Return the loss, weighted.

        Args:
            tokens: (B, n, D).
            features: (B, feature_channels, h, w), which are averaged over the cells of the tokens.
            grid: Height and width of the tokens.
            valid: (B, n) bool, the tokens that count; None: all.

        Raises:
            ConfigError: The features are coarser than the tokens, or of another width.
        """
        shape = features.shape[1:]
        if shape[0] != self.feature_channels or shape[1] < grid[0] or shape[2] < grid[1]:
            raise ConfigError(
                "model.network.alignment does not fit the features of model.frozen",
                expected=f"{self.feature_channels} channels on a grid of at least {tuple(grid)}",
                found=tuple(shape),
                remedy="correct feature_channels, or choose a finer level or a larger scale of "
                "model.frozen",
            )
        features = F.adaptive_avg_pool2d(features, tuple(grid)).flatten(2).mT
        return self.weight * masked_mean(
            1 - F.cosine_similarity(self.mlp(tokens), features, dim=-1), valid
        )


@MODELS.register_module()
class LightningDiT(BaseModule):
    """Diffusion transformer whose velocities lead from noise (time 0) to latents (time 1).

    A map of classes is added to the tokens of its positions.

    Args:
        grid: Height and width (h, w) of the latents, multiples of ``patch_size``.
        in_channels: Channels C of the latents.
        condition: Options of :class:`ConditionEmbedding`.
        embed_dims: Width of the tokens, a multiple of 4.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        patch_size: Side of the square of latents that becomes a token.
        rms_norm: RMSNorm instead of LayerNorm without weights.
        swiglu: SwiGLU instead of an MLP with GELU.
        rotary: Rotary positions in all blocks, beside those that are added once.
        qk_norm: Norm of queries and keys.
        shift: Whether AdaLN shifts in the blocks, beside scaling and gating.
        times: Options of :class:`FlowTimes`.
        sampling: Options of :class:`FlowSampling`.
        alignment: Options of :class:`InnerAlignment`, for which training needs features of a frozen
            network (``frozen`` of :class:`TileGenerator`); None: no such loss.

    Attributes:
        target: ``"latents"``, what the network learns.
        grid: As above.
        condition_grid: Grid of the tokens, of the positions of a map.

    Raises:
        ConfigError: The options do not fit each other.

    Reference:
        Yao et al., "Reconstruction vs. generation: taming optimization dilemma in latent diffusion
        models", CVPR 2025, arXiv:2501.01423; Peebles and Xie, "Scalable diffusion models with
        transformers", ICCV 2023, arXiv:2212.09748.
    """

    target = "latents"

    def __init__(
        self,
        grid: Sequence[int],
        in_channels: int,
        condition: dict | None = None,
        embed_dims: int = 256,
        depth: int = 6,
        num_heads: int = 8,
        patch_size: int = 1,
        rms_norm: bool = True,
        swiglu: bool = True,
        rotary: bool = True,
        qk_norm: bool = False,
        shift: bool = True,
        times: dict | None = None,
        sampling: dict | None = None,
        alignment: dict | None = None,
    ) -> None:
        super().__init__()
        if any(side % patch_size for side in grid) or embed_dims % 4:
            raise ConfigError(
                "model.network: patch_size or embed_dims do not fit",
                expected=f"patch_size that divides {tuple(grid)}, embed_dims as a multiple of 4",
                found=f"patch_size={patch_size}, embed_dims={embed_dims}",
                remedy="change them, or tile_size",
            )
        self.grid, self.in_channels, self.patch_size = tuple(grid), in_channels, patch_size
        self.condition_grid = tokens = tuple(side // patch_size for side in grid)
        norm_layer = partial(nn.RMSNorm, eps=_EPS)
        head_norm = norm_layer if rms_norm else nn.LayerNorm
        if not rms_norm:
            norm_layer = partial(nn.LayerNorm, eps=_EPS, elementwise_affine=False)
        names = SHIFTS_FIRST if shift else tuple(n for n in SHIFTS_FIRST if "shift" not in n)

        self.patch_embed = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        rows, columns = build_sincos2d_pos_embed(
            list(tokens), embed_dims, interleave_sin_cos=True
        ).chunk(2, dim=1)
        self.register_buffer("pos_embed", torch.cat([columns, rows], dim=1)[None])
        self.time_embed = TimeEmbedding(embed_dims)
        self.condition = ConditionEmbedding(embed_dims, **(condition or {}))
        self.blocks = nn.ModuleList(
            Block(
                Attention(
                    embed_dims,
                    num_heads,
                    bias=True,
                    causal=False,
                    norm_layer=head_norm if qk_norm else None,
                ),
                _feed_forward(embed_dims, swiglu),
                (norm_layer(embed_dims), norm_layer(embed_dims)),
                Modulation(embed_dims, names),
            )
            for _ in range(depth)
        )
        self.norm = FinalNorm(norm_layer(embed_dims), Modulation(embed_dims, ("shift", "scale")))
        self.head = nn.Linear(embed_dims, patch_size**2 * in_channels)
        table = rotary_table(tokens, embed_dims // num_heads) if rotary else None
        self.register_buffer("rotary", table, persistent=False)
        self.times = changed(FlowTimes(), times or {}, "model.network.times")
        self.sampling = changed(FlowSampling(), sampling or {}, "model.network.sampling")
        self.alignment = None if alignment is None else InnerAlignment(embed_dims, **alignment)
        if self.alignment is not None and not 0 <= self.alignment.block < depth:
            raise ConfigError(
                "model.network.alignment names no block",
                expected=f"block from 0 to {depth - 1} (depth - 1)",
                found=self.alignment.block,
                remedy="correct block, or raise depth",
            )

    def init_weights(self) -> None:
        """Draw new weights; AdaLN and the head start at zero, so that velocities are zero first."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.data.flatten(1))
                nn.init.zeros_(module.bias)
        for module in (self.time_embed.mlp[0], self.time_embed.mlp[2], self.condition.table):
            nn.init.normal_(module.weight, std=0.02)
        for module in (one[1] for one in self.modules() if isinstance(one, Modulation)):
            nn.init.zeros_(module.weight)
        nn.init.zeros_(self.head.weight)
        self._is_init = True

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """Return velocities (B, C, h, w).

        Args:
            x: (B, C, h, w) between noise and latents.
            times: (B,) from 0 to 1.
            labels: Conditions, see :class:`ConditionEmbedding`.
        """
        return self.forward_with_tokens(x, times, labels)[0]

    def forward_with_tokens(
        self, x: Tensor, times: Tensor, labels: Tensor, blocks: Collection[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Return velocities (B, C, h, w), and the tokens (B, n, D) after some blocks.

        Args:
            x: See :meth:`forward`.
            times: Likewise.
            labels: Likewise.
            blocks: Numbers of the blocks, from 0.
        """
        tokens = self.patch_embed(x).flatten(2).mT + self.pos_embed
        condition, cells = self.condition(labels)
        if cells is not None:
            tokens = tokens + cells
        condition = condition + self.time_embed(times)[:, None]
        kept = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, self.rotary, condition)
            if number in blocks:
                kept.append(tokens)
        out = self.head(self.norm(tokens, condition))
        side = self.patch_size
        # (row in the patch, column in the patch, channel) of each token
        out = out.unflatten(2, (side, side, -1)).unflatten(1, self.condition_grid)
        return out.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3), kept

    # ------------------------------------------------------------------------------ training
    @staticmethod
    def interpolate(noise: Tensor, latents: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of straight paths at times (B,), and their velocities."""
        times = times.view(-1, *[1] * (latents.ndim - 1))
        return times * latents + (1 - times) * noise, latents - noise

    def path_losses(
        self,
        noise: Tensor,
        latents: Tensor,
        times: Tensor,
        labels: Tensor,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the errors of velocities at given times of given paths, (B,) each.

        Args:
            noise: (B, C, h, w) starts.
            latents: (B, C, h, w) ends.
            times: (B,).
            labels: Conditions.
            valid: (B, N) bool, the positions that count; None: all.

        Returns:
            The mean squared error, and the mean over positions of one minus the cosine.
        """
        x, velocity = self.interpolate(noise, latents, times)
        return self._errors(self(x, times, labels), velocity, valid)

    @staticmethod
    def _errors(found: Tensor, velocity: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        errors = (found - velocity).square().mean(dim=1).flatten(1)
        angles = 1 - F.cosine_similarity(found, velocity, dim=1).flatten(1)
        if valid is None:
            return errors.mean(dim=1), angles.mean(dim=1)
        share = valid.float() / valid.sum(dim=1, keepdim=True).clamp(min=1)
        return (errors * share).sum(dim=1), (angles * share).sum(dim=1)

    def loss(
        self,
        latents: Tensor,
        labels: Tensor,
        valid: Tensor | None = None,
        features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses at random times.

        Args:
            latents: (B, N, C).
            labels: Conditions.
            valid: (B, N) bool, the positions that count; None: all.
            features: (B, D, h, w) of a frozen network, for ``alignment``.

        Returns:
            ``loss_velocity`` and ``loss_direction``; with ``alignment`` also ``loss_alignment``.
        """
        maps = latents.mT.unflatten(2, self.grid)
        times = self.times.draw(len(maps)).to(maps)
        x, velocity = self.interpolate(torch.randn_like(maps), maps, times)
        blocks = () if self.alignment is None else (self.alignment.block,)
        found, inner = self.forward_with_tokens(x, times, labels, blocks)
        errors, angles = self._errors(found, velocity, valid)
        losses = {"loss_velocity": errors.mean(), "loss_direction": angles.mean()}
        if self.alignment is not None:
            if valid is not None:
                valid = F.max_pool2d(valid.unflatten(1, self.grid).float(), self.patch_size) > 0
                valid = valid.flatten(1)
            grid = self.condition_grid
            losses["loss_alignment"] = self.alignment(inner[0], features, grid, valid)
        return losses

    # ------------------------------------------------------------------------------ sampling
    def velocity(self, x: Tensor, time: float, labels: Tensor, options: FlowSampling) -> Tensor:
        """Return guided velocities (B, C, h, w) at a time."""
        times = x.new_full((len(x),), time)
        if options.guidance == 1 or time < options.guidance_start:
            return self(x, times, labels)
        labels = torch.cat([labels, self.condition.unknowns(labels)])
        both = self(x.repeat(2, 1, 1, 1), times.repeat(2), labels).chunk(2)
        return guide(*both, options.guidance, options.guidance_channels)

    @torch.no_grad()
    def trajectory(self, noise: Tensor, labels: Tensor, **changes) -> Iterator[Tensor]:
        """Follow the flow from noise (B, C, h, w) to latents by Euler's method.

        Args:
            noise: The starts.
            labels: Conditions.
            **changes: Changes of ``sampling``.

        Yields:
            (B, C, h, w) at each point of time, the noise first.

        Raises:
            ConfigError: An option is invalid, or guidance has no unknown condition.
        """
        options = changed(self.sampling, changes)
        times, x = options.times().tolist(), noise
        yield x
        for now, then in zip(times, times[1:], strict=False):
            x = x + (then - now) * self.velocity(x, now, labels, options)
            yield x

    def sample(self, labels: Tensor, generators: list[torch.Generator], **changes) -> Tensor:
        """Draw latents (B, N, C).

        Args:
            labels: Conditions of B images.
            generators: A random generator for each image, for its noise.
            **changes: Changes of ``sampling``.

        Raises:
            ConfigError: See :meth:`trajectory`.
        """
        shape = (self.in_channels, *self.grid)
        noise = torch.stack([torch.randn(shape, generator=one) for one in generators])
        trajectory = self.trajectory(noise.to(self.pos_embed), labels, **changes)
        return check_finite(deque(trajectory, maxlen=1).pop()).flatten(2).mT


def _feed_forward(embed_dims: int, swiglu: bool) -> nn.Module:
    hidden = 4 * embed_dims
    if not swiglu:
        return Mlp(embed_dims, hidden, act_layer=partial(nn.GELU, approximate="tanh"))
    # half of the packed width is the gate
    return GluMlp(embed_dims, 2 * int(2 / 3 * hidden), act_layer=nn.SiLU, gate_last=False)
