"""Learning without labels: tokens reconstruct seeds, seeds and tokens align with a network."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from hook.engine.tta import apply_view, views
from hook.errors import ConfigError
from hook.models.image_model import ImageModel
from hook.models.pretrain_losses import PretrainPass, Widths
from hook.models.token_model import TokenModel, valid_pixels
from hook.registry import MODELS
from hook.structures import ClsDataSample, ImageTokens
from hook.tokenizers import ImageFacts

# Mean and deviation of ImageNet's images over all channels, scaled to [-1, 1].
_IMAGENET_MEAN, _IMAGENET_STD = 2 * 0.449 - 1, 2 * 0.226


@MODELS.register_module()
class TokenPretrainer(TokenModel, ImageModel):
    """Backbone that learns from images without labels; see :class:`hook.models.TokenModel`.

    Each image is turned and mirrored at random, and its frozen features with it; only the backbone
    sees colour jitter. The frozen features are those of the image before that: computed for each
    batch, or once for all (:class:`hook.engine.frozen_features.FrozenFeatureHook`). The backbone's
    weights have the names that they have in a classifier and a segmentation.

    Predictions hold the tokens only.

    Args:
        backbone: Config of a :class:`hook.models.TokenViT` with a HOOK tokenizer, without
            ``out_indices``.
        losses: Configs of losses, such as ``hook.SeedReconstruction``, ``hook.SeedAlignment`` and
            ``hook.TokenAlignment``; none for a model that only predicts.
        frozen: Config of a network such as ``hook.FrozenBackbone``, which is built when it is
            needed. Without ``mean`` and ``std`` of their own, its options take the normalised
            bands to the mean and deviation of ImageNet's images. None: no foreign network.
        feature_channels: Channels of the frozen maps, all together.
        region_loss: Config of ``hook.RegionLoss`` with ``from_labels=False``, for a tokenizer of
            the preset ``"objects"``.
        data_preprocessor: Config of a ``hook.ClsDataPreProcessor``.
        turn: Turn and mirror images at random.
        jitter: Standard deviation of a random gain (as a share) and offset (in normalised units)
            of an image; half of it in addition for each band.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: The tokenizer has no seeds, ``mark_invalid=True`` is not supported by it, or
            options contradict each other.
    """

    def __init__(
        self,
        backbone: dict,
        losses: Sequence[dict] = (),
        frozen: dict | None = None,
        feature_channels: int = 0,
        region_loss: dict | None = None,
        data_preprocessor: dict | None = None,
        turn: bool = True,
        jitter: float = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone, self.test_cfg = MODELS.build(backbone), {}
        tokenizer = getattr(self.backbone, "tokenizer", None)
        if not hasattr(tokenizer, "perceive") or self.backbone.out_indices is not None:
            raise ConfigError(
                "model.backbone cannot be pretrained",
                expected="hook.TokenViT with a hook.HookTokenizer, without out_indices",
                found=f"{type(tokenizer or self.backbone).__name__}, "
                f"out_indices={getattr(self.backbone, 'out_indices', None)}",
                remedy="change the backbone; pretrained weights load into others afterwards",
            )
        self.check_tokenizer()
        self.build_region_loss(region_loss)
        if (frozen is None) != (not feature_channels):
            raise ConfigError(
                "model.frozen and model.feature_channels belong together",
                expected="both, or neither",
                found=f"frozen={frozen}, feature_channels={feature_channels}",
                remedy="set feature_channels to the channels of the network's levels, or leave "
                "both out",
            )
        self.widths = Widths(
            tokenizer.in_channels,
            tokenizer.stride,
            tokenizer.seed_dims,
            self.backbone.embed_dims,
            feature_channels,
        )
        self.losses = nn.ModuleList(
            MODELS.build(cfg, default_args=dict(widths=self.widths)) for cfg in losses
        )
        self.frozen, self._frozen_cfg = None, copy.deepcopy(frozen)
        self.stored_maps: Callable[[Sequence[int]], list[Tensor]] | None = None
        # Of the channels of the frozen maps, over the training images.
        n = feature_channels
        self.register_buffer("feature_mean", torch.zeros(n) if n else None)
        self.register_buffer("feature_std", torch.ones(n) if n else None)
        self.turn, self.jitter = turn, jitter

    # ------------------------------------------------------------------------------ network
    def build_frozen(self) -> nn.Module | None:
        """Return the frozen network, built with the first call; None without one.

        Raises:
            ConfigError: It does not see these bands, or has another number of channels.
        """
        if self._frozen_cfg is None or self.frozen is not None:
            return self.frozen
        frozen = MODELS.build(self._frozen_cfg)
        frozen.check_bands(self.widths.bands)
        if sum(frozen.channels) != self.widths.features:
            raise ConfigError(
                "model.feature_channels is not that of the frozen network",
                expected=f"{sum(frozen.channels)}: {' + '.join(map(str, frozen.channels))}",
                found=self.widths.features,
                remedy="correct feature_channels, or frozen.levels",
            )
        if self._frozen_cfg.get("mean") is None:
            frozen.mean = (frozen.mean - _IMAGENET_MEAN) / _IMAGENET_STD
        if self._frozen_cfg.get("std") is None:
            frozen.std = frozen.std / _IMAGENET_STD
        self.frozen = frozen.to(next(self.parameters()).device)
        return self.frozen

    @torch.no_grad()
    def frozen_maps(
        self, inputs: Tensor, data_samples: Sequence[ClsDataSample] | None = None
    ) -> list[Tensor]:
        """Return the frozen network's maps (B, C_l, h_l, w_l) of normalised images."""
        return [one.float() for one in self.build_frozen()(inputs)]

    def _maps(self, inputs: Tensor, data_samples: Sequence[ClsDataSample]) -> list[Tensor]:
        """Return the standardised frozen maps of a batch, stored ones if there are any."""
        if self._frozen_cfg is None:
            return []
        if self.stored_maps is None:
            maps = self.frozen_maps(inputs)
        else:
            maps = self.stored_maps([sample.sample_idx for sample in data_samples])
            maps = [one.to(inputs.device) for one in maps]
        statistics = [
            part.split([one.shape[1] for one in maps])
            for part in (self.feature_mean, self.feature_std)
        ]
        return [
            (one - mean[:, None, None]) / std[:, None, None]
            for one, mean, std in zip(maps, *statistics, strict=True)
        ]

    # ------------------------------------------------------------------------------ training
    def _forward(self, inputs: Tensor, data_samples: list[ClsDataSample] | None = None) -> Tensor:
        """Return tokens (B, N, D), for ``mode='tensor'``."""
        return self.extract_feat(inputs, self.image_facts(inputs, data_samples))

    def loss(self, inputs: Tensor, data_samples: list[ClsDataSample]) -> dict[str, Tensor]:
        """Compute the losses of images (B, C, H, W)."""
        valid = valid_pixels(inputs, data_samples)
        inputs = inputs.masked_fill(~valid[:, None], 0)  # the mean, as samples are filled
        maps = self._maps(inputs, data_samples)
        inputs, valid, *maps = self._turned([inputs, valid, *maps])
        valid = None if valid.all() else valid
        facts = self.image_facts(inputs, data_samples)
        facts = replace(facts, valid=valid if self.marks_invalid else None)
        _, tokens = self.backbone.forward_with_tokens(self._jittered(inputs), facts=facts)
        passed = PretrainPass.of(tokens, inputs, valid, maps)
        losses: dict[str, Tensor] = {}
        for loss in self.losses:
            losses |= loss(passed)
        if self.region_loss is not None:
            losses["loss_regions"] = self.region_loss(self.backbone.tokenizer, tokens)
        return losses

    def _turned(self, batch: list[Tensor]) -> list[Tensor]:
        """Apply one random symmetry per image to tensors (B, ..., H, W), the images first."""
        if not self.turn:
            return batch
        known = list(views(square=batch[0].shape[-2] == batch[0].shape[-1]))
        drawn = [known[i] for i in torch.randint(len(known), (len(batch[0]),)).tolist()]
        return [
            torch.stack([apply_view(one, view) for one, view in zip(part, drawn, strict=True)])
            for part in batch
        ]

    def _jittered(self, images: Tensor) -> Tensor:
        """Change gain and offset of each image, and a little of each band."""
        if not self.jitter:
            return images
        b, c = images.shape[:2]
        gain, offset = (
            self.jitter * (torch.randn(2, b, 1, 1, 1) + torch.randn(2, b, c, 1, 1) / 2)
        ).to(images)
        return images * gain.exp() + offset

    # ------------------------------------------------------------------------------ predictions
    def infer(
        self,
        inputs: Tensor,
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
        metas: list[dict] | None = None,
        with_tokens: bool = False,
    ) -> tuple[Tensor, list[ImageTokens] | None]:
        """Return the mean of the tokens of each image, (B, D), in place of logits; see the base."""
        features, tokens = self.extract(inputs, facts, num_tokens, with_tokens)
        return features.mean(dim=1), tokens

    def _scores(self, logits: Tensor) -> Tensor:
        return logits

    def _answer(
        self, result: Tensor, are_scores: bool, data_samples: Sequence[ClsDataSample] | None
    ) -> list[ClsDataSample]:
        return list(data_samples or (ClsDataSample() for _ in range(len(result))))
