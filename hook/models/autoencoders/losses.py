"""Losses of autoencoders: pixels, frozen features, Gram matrices, alignment, adversarial."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor, nn

from hook.checkpoint import get_state_dict, load_checkpoint
from hook.errors import ConfigError
from hook.models.autoencoders.frozen import FrozenBackbone
from hook.quantizers import Quantized
from hook.registry import MODELS
from hook.tokenizers import Packed


@dataclass
class CodecPass:
    """A batch on its way through an autoencoder: what its losses compare.

    Attributes:
        images: (B, C, H, W) images that the reconstruction is to equal, in model units.
        reconstruction: (B, C, H, W); equal to the images at invalid pixels, which therefore cost
            nothing in whatever is computed from the two.
        quantized: Output of the quantizer; its losses are added to those of the list.
        latents: (B, D, h, w) latents that the decoder got, before any transform of equivariance.
        inputs: (B, C, H', W') images that the encoder got: ``images`` but for equivariance.
        valid: (B, H, W) bool, valid pixels of the images; None: all.
        input_valid: (B, H', W') bool, those of the inputs; None: all.
        frozen: The frozen network, if any.
        stages: Smaller reconstructions of a progressive decoder, coarsest first.
        packed: Packed latents of a ``SeriesAutoencoder``, whose ``latents`` are (B, D, N, 1).
        stored: Frozen features of the inputs that were computed before; None: they are computed.
    """

    images: Tensor
    reconstruction: Tensor
    quantized: Quantized
    latents: Tensor
    inputs: Tensor
    valid: Tensor | None = None
    input_valid: Tensor | None = None
    frozen: FrozenBackbone | None = None
    stages: Sequence[Tensor] = ()
    packed: Packed | None = None
    stored: Sequence[Tensor] | None = None

    @cached_property
    def image_features(self) -> Sequence[Tensor]:
        """Frozen features of the images, without gradients."""
        if self.images is self.inputs:
            return self.input_features
        with torch.no_grad():
            return self.frozen(self.images)

    @cached_property
    def input_features(self) -> Sequence[Tensor]:
        """Frozen features of the inputs, without gradients."""
        if self.stored is not None:
            return self.stored
        with torch.no_grad():
            return self.frozen(self.inputs)

    @cached_property
    def reconstruction_features(self) -> list[Tensor]:
        """Frozen features of the reconstruction, through which gradients pass."""
        return self.frozen(self.reconstruction)


# ---------------------------------------------------------------------------------- validity
def cell_weights(valid: Tensor, size: Sequence[int]) -> Tensor:
    """Return the share of valid pixels (B, 1, h, w) in each cell of a grid."""
    return F.adaptive_avg_pool2d(valid[:, None].float(), tuple(size))


def mean_of_cells(images: Tensor, valid: Tensor | None, size: Sequence[int]) -> Tensor:
    """Return the mean of the valid pixels in each cell of a grid, (B, C, h, w)."""
    if valid is None:
        return F.adaptive_avg_pool2d(images, tuple(size))
    total = F.adaptive_avg_pool2d(images * valid[:, None], tuple(size))
    weights = cell_weights(valid, size)
    return total / weights.clamp(min=torch.finfo(weights.dtype).tiny)


def mean_over_cells(values: Tensor, valid: Tensor | None, per_image: bool = False) -> Tensor:
    """Return the mean of maps weighted by the share of valid pixels; 0 without a valid pixel.

    Args:
        values: (B, C, h, w).
        valid: (B, H, W) bool, any size; None: all.
        per_image: Return a mean of each image, (B,).
    """
    dims = (1, 2, 3) if per_image else (0, 1, 2, 3)
    if valid is None:
        return values.mean(dims)
    weights = cell_weights(valid, values.shape[-2:])
    total = weights.sum(dims) * values.shape[1]
    return (values * weights).sum(dims) / total.clamp(min=torch.finfo(weights.dtype).tiny)


def mean_over_images(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of values (B,) over the images with a valid pixel; 0 if there is none."""
    if valid is None:
        return values.mean()
    known = valid.flatten(1).any(dim=1).to(values.dtype)
    return (values * known).sum() / known.sum().clamp(min=1)


# ---------------------------------------------------------------------------------- schedules
def ramp(step: int, start: int = 0, warmup: int = 0, end: int | None = None) -> float:
    """Return the factor of a loss: 0 before ``start``, 1 after ``warmup`` steps, 0 from ``end``."""
    if step < start or (end is not None and step >= end):
        return 0.0
    return min(1.0, (step - start + 1) / (warmup + 1))


def entropy_boost(step: int, ratio: float, steps: int = 2000) -> float:
    """Return Open-MAGVIT2's factor of the entropy loss, which falls from 1 + ratio to 1."""
    return 1.0 + ratio * max(0.0, 1.0 - step / steps)


# ---------------------------------------------------------------------------------- adaptive
def weight_from_gradients(
    reference: Tensor, gradient: Tensor, limit: float = 1e4, eps: float = 1e-4
) -> Tensor:
    """Return ``clip(|reference| / (|gradient| + eps), 0, limit)``, without gradients.

    Esser et al. (2021), arXiv:2012.09841, equation 7.
    """
    ratio = reference.norm() / (gradient.norm() + eps)
    return ratio.clamp(0.0, limit).detach()


def adaptive_weight(
    reference: Tensor, loss: Tensor, layer: Tensor, limit: float = 1e4, eps: float = 1e-4
) -> Tensor:
    """Return the weight with which a loss has the gradient norm of the reference at a layer.

    The gradients are averaged over all processes, so that they agree about the weight.

    Args:
        reference: Sum of the reconstruction losses.
        loss: The loss to be weighted.
        layer: Weights of the layer at which gradients are compared.
        limit: Largest weight. When the loss is nearly met its gradient vanishes, and the ratio
            grows to 1e4 times the reference's gradient.
        eps: Added to the gradient norm of the loss.
    """
    norms = []
    for one in (reference, loss):
        (gradient,) = torch.autograd.grad(one, layer, retain_graph=True)
        all_reduce(gradient, op="mean")
        norms.append(gradient.float())
    return weight_from_gradients(*norms, limit, eps)


# ---------------------------------------------------------------------------------- losses
class CodecLoss(nn.Module):
    """Base class of the losses in ``losses`` of a TileAutoencoder.

    Args:
        weight: Factor of the loss.
        start: First training step with the loss.
        warmup: Steps over which its factor grows linearly.
        end: First step without the loss; None: never.
        adaptive: Balance the loss against the reconstruction losses at the encoder's last layer
            (:func:`adaptive_weight`); ``weight`` is a factor in addition.
        limit: Largest adaptive weight; None: 100, times the values of an image where reconstruction
            losses are sums over them.

    Attributes:
        is_reconstruction: Whether adaptive weights are relative to this loss.
        needs_frozen: Whether the loss needs the frozen network.
    """

    is_reconstruction = True
    needs_frozen = False

    def __init__(
        self,
        weight: float = 1.0,
        start: int = 0,
        warmup: int = 0,
        end: int | None = None,
        adaptive: bool = False,
        limit: float | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.schedule = weight, (start, warmup, end)
        self.adaptive, self.limit = adaptive, limit
        if adaptive and self.is_reconstruction:
            raise ConfigError(
                f"{type(self).__name__}: adaptive weights are relative to this loss",
                expected="adaptive=False",
                found=adaptive,
                remedy="set weight",
            )

    def factor(self, step: int) -> float:
        """Return the weight in a training step."""
        return self.weight * ramp(step, *self.schedule)

    def forward(self, passed: CodecPass) -> Tensor:
        """Return the scalar loss, before its weight."""
        raise NotImplementedError


def _choose(option: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"losses: {option} is unknown",
            expected=" or ".join(map(repr, allowed)),
            found=repr(value),
            remedy="choose one of them",
        )


@MODELS.register_module()
class PixelLoss(CodecLoss):
    """Mean difference of the pixels, ``"l1"`` absolute or ``"l2"`` squared.

    Args:
        norm: ``"l1"`` or ``"l2"``.
        reduction: ``"mean"`` over valid pixels and bands, or ``"sum"`` over those of an image and
            mean over images (LDM, VA-VAE; then KL weights are those of sums).
        stages: Compare the smaller reconstructions of a progressive decoder instead, each with the
            images at its size; the mean over them.
        **schedule: Options of :class:`CodecLoss`.

    Raises:
        ConfigError: An option is unknown.
    """

    def __init__(
        self, norm: str = "l1", reduction: str = "mean", stages: bool = False, **schedule
    ) -> None:
        super().__init__(**schedule)
        _choose("norm", norm, ("l1", "l2"))
        _choose("reduction", reduction, ("mean", "sum"))
        self.norm, self.reduction, self.stages = norm, reduction, stages

    def forward(self, passed: CodecPass) -> Tensor:
        """Return the loss; see the class."""
        pairs = [(passed.reconstruction, passed.images)]
        if self.stages:
            pairs = [
                (stage, mean_of_cells(passed.images, passed.valid, stage.shape[-2:]))
                for stage in passed.stages
            ]
        parts = [self._of(*pair, passed.valid) for pair in pairs]
        return sum(parts) / max(1, len(parts))

    def _of(self, reconstruction: Tensor, images: Tensor, valid: Tensor | None) -> Tensor:
        difference = (reconstruction - images).float()
        values = difference.abs() if self.norm == "l1" else difference.square()
        if self.reduction == "mean":
            return mean_over_cells(values, valid)
        if valid is not None:
            values = values * cell_weights(valid, values.shape[-2:])
        return values.sum() / len(values)


class _FeatureLoss(CodecLoss):
    """Base class of losses between frozen features of images and reconstruction."""

    needs_frozen = True

    def __init__(self, levels: Sequence[int] | None = None, **schedule) -> None:
        super().__init__(**schedule)
        self.levels = None if levels is None else tuple(levels)

    def pairs(self, passed: CodecPass) -> list[tuple[Tensor, Tensor]]:
        """Return the features of reconstruction and images at the levels of the loss."""
        both = list(zip(passed.reconstruction_features, passed.image_features, strict=True))
        chosen = both if self.levels is None else [both[level] for level in self.levels]
        return [(a.float(), b.float()) for a, b in chosen]


@MODELS.register_module()
class PerceptualLoss(_FeatureLoss):
    """Squared difference of frozen features that are normalised over the channels.

    Summed over channels and levels, and averaged over positions, as LPIPS (Zhang et al. 2018,
    arXiv:1801.03924) is. It is LPIPS if the network is ``vgg16`` with ``levels=(0, 1, 2, 3, 4)``,
    ``mean=(-.030, -.088, -.188)``, ``std=(.458, .448, .450)`` and the weights of torchvision, and
    ``heads`` is the file of LPIPS's linear layers; none of the two come with HOOK.

    Args:
        heads: File with the weight of each channel, keys ``lin{level}.model.1.weight``; None: 1.
        levels: Numbers of the network's maps, in the order of the list; None: all.
        reduction: ``"mean"``, or ``"sum"``, times the pixels and bands of an image (LDM, VA-VAE).
        **schedule: Options of :class:`CodecLoss`.

    Raises:
        ConfigError: An option is unknown.
    """

    def __init__(
        self,
        heads: str | None = None,
        levels: Sequence[int] | None = None,
        reduction: str = "mean",
        **schedule,
    ) -> None:
        super().__init__(levels, **schedule)
        _choose("reduction", reduction, ("mean", "sum"))
        self.reduction, self.heads_file, self.heads = reduction, heads, []

    def forward(self, passed: CodecPass) -> Tensor:
        """Return the loss; see the class. The first call reads ``heads``.

        Raises:
            ConfigError: ``heads`` are those of another network or other levels.
        """
        pairs = self.pairs(passed)
        if self.heads_file is not None and not self.heads:
            state = get_state_dict(load_checkpoint(self.heads_file))
            numbers = range(len(passed.image_features))
            numbers = numbers if self.levels is None else [numbers[i] for i in self.levels]
            weights = [state.get(f"lin{i}.model.1.weight") for i in numbers]
            widths = [None if weight is None else weight.numel() for weight in weights]
            if widths != [ours.shape[1] for ours, _ in pairs]:
                raise ConfigError(
                    f"losses: heads {self.heads_file} do not fit the frozen network",
                    expected=f"levels of {widths} channels",
                    found=[ours.shape[1] for ours, _ in pairs],
                    remedy="choose the network and levels of these heads",
                )
            self.heads = [weight.float().view(-1, 1, 1) for weight in weights]
        total = 0.0
        for i, (ours, theirs) in enumerate(pairs):
            difference = (F.normalize(ours, eps=1e-10) - F.normalize(theirs, eps=1e-10)).square()
            if self.heads:
                difference = difference * self.heads[i].to(difference.device)
            total = total + mean_over_cells(difference.sum(1, keepdim=True), passed.valid)
        return total * (passed.images[0].numel() if self.reduction == "sum" else 1)


@MODELS.register_module()
class GramLoss(_FeatureLoss):
    """Difference of Gram matrices ``F F^T / (C H W)`` of frozen features (AToken's form).

    Args:
        reduction: ``"mse"``, mean squared, ``"l1"``, mean absolute, or ``"frobenius"``, the squared
            Frobenius norm; mean over images, sum over levels.
        levels: Numbers of the network's maps; None: all.
        **schedule: Options of :class:`CodecLoss`.

    Raises:
        ConfigError: An option is unknown.

    Reference:
        Gatys et al. (2016), arXiv:1508.06576; AToken (2025), arXiv:2509.14476.
    """

    def __init__(
        self, reduction: str = "mse", levels: Sequence[int] | None = None, **schedule
    ) -> None:
        super().__init__(levels, **schedule)
        _choose("reduction", reduction, ("mse", "l1", "frobenius"))
        self.reduction = reduction

    @staticmethod
    def gram(features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the matrices (B, C, C) of maps (B, C, h, w), over valid positions."""
        flat, count = features.flatten(2), features[0, 0].numel()
        if valid is None:
            return flat @ flat.mT / (flat.shape[1] * count)
        weights = cell_weights(valid, features.shape[-2:]).flatten(2)
        count = weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        return (flat * weights) @ flat.mT / (flat.shape[1] * count)

    def between(self, ours: Tensor, theirs: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the loss between two maps (B, C, h, w)."""
        difference = self.gram(ours, valid) - self.gram(theirs, valid)
        values = difference.abs() if self.reduction == "l1" else difference.square()
        over = values.sum((1, 2)) if self.reduction == "frobenius" else values.mean((1, 2))
        return mean_over_images(over, valid)

    def forward(self, passed: CodecPass) -> Tensor:
        """Return the loss; see the class."""
        return sum(self.between(*pair, passed.valid) for pair in self.pairs(passed))


@MODELS.register_module()
class AlignmentLoss(CodecLoss):
    """VA-VAE's alignment of latents with frozen features.

    A 1x1 convolution maps the latents to the width of the features. ``distance`` compares the
    matrices of cosines between all positions of an image, ``cosine`` the vectors of each position;
    both only beyond a margin. The features are averaged over the cells of the latents' grid.

    Args:
        in_channels: Channels of the latents.
        feature_channels: Channels of the frozen feature map.
        level: Number of that map in the network's ``levels``.
        distance_weight: Weight of ``distance``.
        cosine_weight: Weight of ``cosine``.
        distance_margin: Differences of cosines up to this one cost nothing (official: 0, then .25).
        cosine_margin: Angles up to ``1 - cos = cosine_margin`` cost nothing (official: 0, then .5).
        project: ``"latents"`` (official), or ``"features"``, mapped to the latents' width.
        pool: Positions per side that are averaged for ``distance``, whose memory grows with the
            square of their number.
        weight: Factor (official: .1 to .5).
        adaptive: As in :class:`CodecLoss`.
        limit: As in :class:`CodecLoss`. Official is 1e8, practically none: the weight explodes
            when all margins are met.
        **schedule: Further options of :class:`CodecLoss`.

    Raises:
        ConfigError: An option is unknown.

    Reference:
        Yao et al. (2025), arXiv:2501.01423, equations 3 to 7.
    """

    is_reconstruction = False
    needs_frozen = True

    def __init__(
        self,
        in_channels: int,
        feature_channels: int,
        level: int = -1,
        distance_weight: float = 1.0,
        cosine_weight: float = 1.0,
        distance_margin: float = 0.0,
        cosine_margin: float = 0.0,
        project: str = "latents",
        pool: int = 1,
        weight: float = 0.1,
        adaptive: bool = True,
        limit: float | None = None,
        **schedule,
    ) -> None:
        super().__init__(weight, adaptive=adaptive, limit=limit, **schedule)
        _choose("project", project, ("latents", "features"))
        self.in_channels, self.feature_channels = in_channels, feature_channels
        self.level, self.pool, self.project = level, pool, project
        self.weights = (distance_weight, cosine_weight)
        self.margins = (distance_margin, cosine_margin)
        up = project == "latents"
        widths = (in_channels, feature_channels) if up else (feature_channels, in_channels)
        self.proj = nn.Conv2d(*widths, 1, bias=not up)

    def terms(
        self, latents: Tensor, features: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ``distance`` and ``cosine``, unweighted.

        Args:
            latents: (B, in_channels, h, w).
            features: (B, feature_channels, h, w).
            valid: (B, H, W) bool, valid pixels of the images.
        """
        ours, theirs = latents.float(), features.float()
        if self.project == "latents":
            ours = self.proj(ours).float()
        else:
            theirs = self.proj(theirs).float()
        cosine = F.relu(1 - self.margins[1] - F.cosine_similarity(theirs, ours, dim=1))
        cosine = mean_over_cells(cosine[:, None], valid)
        if self.pool > 1:
            ours, theirs = (F.avg_pool2d(x, self.pool, ceil_mode=True) for x in (ours, theirs))
        matrices = []
        for x in (ours, theirs):
            rows = F.normalize(x.flatten(2).mT, dim=-1, eps=1e-12)
            matrices.append(rows @ rows.mT)
        distance = F.relu((matrices[0] - matrices[1]).abs() - self.margins[0])
        if valid is None:
            return distance.mean(), cosine
        weights = cell_weights(valid, ours.shape[-2:]).flatten(1)
        pairs = weights[:, :, None] * weights[:, None, :]
        tiny = torch.finfo(pairs.dtype).tiny
        return (distance * pairs).sum() / pairs.sum().clamp(min=tiny), cosine

    def forward(self, passed: CodecPass) -> Tensor:
        """Return the loss; see the class.

        Raises:
            ConfigError: The features are coarser than the latents, or of another width.
        """
        features, latents = passed.input_features[self.level], passed.latents
        size = tuple(latents.shape[-2:])
        if features.shape[1] != self.feature_channels:
            raise ConfigError(
                "losses: feature_channels of AlignmentLoss differ from the frozen network's",
                expected=f"feature_channels={features.shape[1]}",
                found=self.feature_channels,
                remedy="set feature_channels, or choose a different level",
            )
        if features.shape[-2] < size[0] or features.shape[-1] < size[1]:
            raise ConfigError(
                "losses: the frozen features of AlignmentLoss are coarser than the latents",
                expected=f"a grid of at least {size[0]} x {size[1]}",
                found=f"{features.shape[-2]} x {features.shape[-1]}",
                remedy="choose a finer level, or a larger frozen.scale",
            )
        features = F.adaptive_avg_pool2d(features, size)
        distance, cosine = self.terms(latents, features, passed.input_valid)
        return self.weights[0] * distance + self.weights[1] * cosine


# ---------------------------------------------------------------------------------- adversarial
@MODELS.register_module()
class AdversarialLoss(nn.Module):
    """Losses of the autoencoder and its discriminator, from logits (B, 1, h, w).

    ``softplus`` averages the logits of an image, then takes ``softplus(-real)`` and
    ``softplus(fake)`` (non-saturating); ``vanilla`` takes them per patch, halved. Cells without
    valid pixels do not count.

    Args:
        weight: Weight of the autoencoder's loss (Open-MAGVIT2, IBQ: .1; RQ-VAE: .75 adaptive).
        generator: ``"softplus"``, or ``"mean"``, minus the mean logit.
        discriminator: ``"hinge"`` per patch, ``"vanilla"`` or ``"softplus"``.
        discriminator_weight: Factor of the discriminator's loss (RQ-VAE: .75).
        adaptive: Balance the autoencoder's loss against the reconstruction losses at the decoder's
            last layer (:func:`adaptive_weight`); ``weight`` is a factor in addition.
        limit: Largest adaptive weight (official: 1e4).
        start: First training step with discriminator and loss.
        warmup: Steps over which the autoencoder's loss then grows linearly.
        lecam_weight: Weight of LeCam's regularisation of the discriminator (Tseng et al. 2021,
            arXiv:2104.03310; official: .05, or .01 for 128 px).
        lecam_decay: Decay of its moving means of the logits.

    Raises:
        ConfigError: An option is unknown.
    """

    def __init__(
        self,
        weight: float = 0.1,
        generator: str = "softplus",
        discriminator: str = "hinge",
        discriminator_weight: float = 1.0,
        adaptive: bool = False,
        limit: float = 1e4,
        start: int = 0,
        warmup: int = 0,
        lecam_weight: float = 0.0,
        lecam_decay: float = 0.999,
    ) -> None:
        super().__init__()
        _choose("generator", generator, ("softplus", "mean"))
        _choose("discriminator", discriminator, ("hinge", "vanilla", "softplus"))
        self.weight, self.generator, self.discriminator = weight, generator, discriminator
        self.discriminator_weight, self.adaptive, self.limit = discriminator_weight, adaptive, limit
        self.start, self.warmup = start, warmup
        self.lecam_weight, self.lecam_decay = lecam_weight, lecam_decay
        self.register_buffer("lecam_means", torch.zeros(2))

    def factor(self, step: int) -> float:
        """Return the weight of the autoencoder's loss in a training step."""
        return self.weight * ramp(step, self.start, self.warmup)

    def of_generator(self, fake: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the autoencoder's loss, unweighted, for the logits of its reconstructions."""
        means = mean_over_cells(fake.float(), valid, per_image=True)
        return mean_over_images(
            F.softplus(-means) if self.generator == "softplus" else -means, valid
        )

    def of_discriminator(
        self, real: Tensor, fake: Tensor, valid: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted losses ``loss_real_fake`` and, in use, ``loss_lecam``.

        The moving means are updated first.
        """
        real, fake = real.float(), fake.float()
        if self.discriminator == "softplus":
            means = (mean_over_cells(x, valid, per_image=True) for x in (-real, fake))
            loss = sum(mean_over_images(F.softplus(x), valid) for x in means)
        else:
            kind = F.softplus if self.discriminator == "vanilla" else lambda x: F.relu(1 + x)
            loss = sum(mean_over_cells(kind(x), valid) for x in (-real, fake)) / 2
        losses = {"loss_real_fake": self.discriminator_weight * loss}
        if self.lecam_weight:
            self.update_lecam(real, fake, valid)
            losses["loss_lecam"] = self.lecam_weight * self.lecam(real, fake, valid)
        return losses

    def update_lecam(self, real: Tensor, fake: Tensor, valid: Tensor | None = None) -> None:
        """Update the moving means of the logits of real and fake images, over all processes."""
        means = torch.stack([mean_over_cells(x.detach(), valid) for x in (real, fake)])
        all_reduce(means, op="mean")
        self.lecam_means.mul_(self.lecam_decay).add_(means, alpha=1 - self.lecam_decay)

    def lecam(self, real: Tensor, fake: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return LeCam's loss, unweighted."""
        of_real, of_fake = self.lecam_means.clone()
        return mean_over_cells(F.relu(real - of_fake).square(), valid) + mean_over_cells(
            F.relu(of_real - fake).square(), valid
        )


# ---------------------------------------------------------------------------------- equivariance
class Equivariance:
    """Random scale and quarter turns that latents and images share (VFM-VAE, EQ-VAE).

    In a step either latents and target are resized and turned alike (the latent branch), or the
    images are shrunk before they are encoded (the image branch), or nothing is changed. The losses
    are those of every other step. Draws come from Python's global state, which checkpoints hold.

    Args:
        latent_prob: Probability of the latent branch; the image branch has the rest.
        scales: Factors of the latent branch, drawn uniformly, as its quarter turns are.
        image_prob: Probability that the image branch shrinks the images.
        image_scales: Its factors.

    Reference:
        Kouzelis et al. (2025), arXiv:2502.09509.
    """

    def __init__(
        self,
        latent_prob: float = 0.5,
        scales: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        image_prob: float = 0.25,
        image_scales: Sequence[float] = (0.25, 0.5, 0.75),
    ) -> None:
        self.latent_prob, self.scales = latent_prob, list(scales)
        self.image_prob, self.image_scales = image_prob, list(image_scales)

    def draw(self) -> tuple[bool, float, int]:
        """Draw whether latents are transformed (not images), the scale, and the quarter turns."""
        if random.random() < self.latent_prob:
            return True, random.choice(self.scales), random.choice([0, 1, 2, 3])
        shrinks = random.random() < self.image_prob
        return False, random.choice(self.image_scales) if shrinks else 1.0, 0

    @staticmethod
    def apply(maps: Tensor, size: Sequence[int], turns: int = 0) -> Tensor:
        """Resize maps (B, C, H, W) bilinearly to a size, and turn them by quarters (``rot90``)."""
        if tuple(size) != tuple(maps.shape[-2:]):
            maps = F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
        return torch.rot90(maps, turns, (-2, -1))

    @classmethod
    def apply_valid(
        cls, valid: Tensor | None, size: Sequence[int], turns: int = 0
    ) -> Tensor | None:
        """Transform validity (B, H, W): pixels that an invalid one has a part in are invalid."""
        if valid is None:
            return None
        return cls.apply(valid[:, None].float(), size, turns)[:, 0] > 1 - 1e-4
