"""Autoencoders of tiles on MMEngine's ``BaseModel``."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce_params
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from hook.errors import ConfigError, DataError
from hook.models.autoencoders.frozen import FrozenBackbone
from hook.models.autoencoders.losses import (
    AdversarialLoss,
    CodecPass,
    Equivariance,
    adaptive_weight,
    entropy_boost,
)
from hook.models.image_model import ImageModel
from hook.models.parts import build_part
from hook.models.token_model import valid_pixels
from hook.quantizers import Quantized
from hook.registry import MODELS, QUANTIZERS
from hook.structures import CodecDataSample
from hook.tokenizers import ImageFacts


@MODELS.register_module()
class TileAutoencoder(ImageModel):
    """Images to latents or codes, and back.

    Images have any size: they are padded to the stride of the latents, and cut again. Invalid
    pixels are filled with 0 (the mean), cost nothing in any loss, as padding does, and are given
    back as no data by predictions.

    With a discriminator a training step updates the autoencoder and the discriminator, each by its
    own optimizer::

        optim_wrapper = dict(
            constructor="hook.PartsOptimWrapperConstructor",
            autoencoder=dict(type="OptimWrapper", optimizer=...),
            discriminator=dict(type="OptimWrapper", optimizer=...),
        )

    Both may train in mixed precision and accumulate gradients over equally many steps. Gradients
    are averaged over processes in :meth:`train_step`, so that the model needs no wrapper that
    does (:class:`hook.engine.parallel.ReplicatedModel`).

    Args:
        encoder: Config of a network with ``in_channels``, ``out_channels`` and ``stride``; with
            ``takes_valid`` it is called with the valid pixels, too.
        decoder: Config of its counterpart.
        quantizer: Config of a quantizer in QUANTIZERS; None: the latents stay as they are.
        losses: Configs of losses (:mod:`hook.models.autoencoders.losses`), one of them
            ``AdversarialLoss`` with a discriminator; None: ``PixelLoss``. The quantizer's own
            losses are added.
        discriminator: Config of a discriminator.
        discriminator_first: Update the discriminator before the autoencoder (IBQ), not after.
        frozen: Config of a :class:`FrozenBackbone` for the losses that compare its features; None
            for the encoder's own, if it has one. It is built when a training starts. With
            :class:`hook.engine.frozen_features.FrozenFeatureHook` its features of the training
            images are computed once.
        equivariance: Options of :class:`Equivariance`; None for none.
        entropy_boost: (ratio, steps) of a larger weight of the quantizer's entropy losses at the
            start (:func:`~hook.models.autoencoders.losses.entropy_boost`); None for none.
        data_preprocessor: Config of a :class:`hook.models.CodecDataPreProcessor`.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: The parts do not fit each other.
    """

    averages_gradients = True
    _feature_width: int | None = None  # of the features that losses align; None: the latents'

    def __init__(
        self,
        encoder: dict,
        decoder: dict,
        quantizer: dict | None = None,
        losses: Sequence[dict] | None = None,
        discriminator: dict | None = None,
        discriminator_first: bool = False,
        frozen: dict | None = None,
        equivariance: dict | None = None,
        entropy_boost: tuple[float, int] | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if data_preprocessor is None:
            data_preprocessor = dict(type="hook.CodecDataPreProcessor")
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.encoder, self.decoder = MODELS.build(encoder), MODELS.build(decoder)
        self.quantizer = None
        if quantizer is not None:
            self.quantizer = build_part(QUANTIZERS, quantizer, "model.quantizer")
        self.discriminator = None if discriminator is None else MODELS.build(discriminator)
        self.discriminator_first = discriminator_first
        self.equivariance = None if equivariance is None else Equivariance(**equivariance)
        self.entropy_boost = entropy_boost
        self.losses, self.adversarial = nn.ModuleDict(), None
        for cfg in losses if losses is not None else [dict(type="hook.PixelLoss")]:
            loss = MODELS.build(cfg)
            if isinstance(loss, AdversarialLoss):
                self.adversarial = loss
            else:
                self.losses[self._new_name(loss)] = loss
        own = getattr(self.encoder, "backbone", None) if frozen is None else None
        self.frozen, self._frozen_cfg = own if isinstance(own, FrozenBackbone) else None, frozen
        self.stored_maps: Callable[[Sequence[int]], list[Tensor]] | None = None
        self.in_channels, self.stride = self.encoder.in_channels, self.encoder.stride
        # With RQ-VAE's fold several latents share their codes.
        self._fold = getattr(self.quantizer, "fold", (1, 1))
        self._check_parts()

    def _check_kinds(self, *kinds: type, others: Sequence[nn.Module | None] = ()) -> None:
        """Raise ConfigError for parts that a kind of autoencoder cannot use.

        Args:
            kinds: Classes of its encoder and decoder.
            others: Parts that must be None.
        """
        own = zip((self.encoder, self.decoder), kinds, strict=True)
        wrong = [type(part).__name__ for part, kind in own if not isinstance(part, kind)]
        wrong += [type(part).__name__ for part in others if part is not None]
        wrong += ["a quantizer with fold"] if self._fold != (1, 1) else []
        if wrong:
            raise ConfigError(
                f"model: parts that a {type(self).__name__} cannot use",
                expected=f"{' and '.join(kind.__name__ for kind in kinds)}, without the others",
                found=", ".join(wrong),
                remedy="leave them out, or use hook.TileAutoencoder",
            )

    def _new_name(self, loss: nn.Module) -> str:
        """Return a name such as ``pixel``, ``pixel_2`` for a loss in the log."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(loss).__name__.removesuffix("Loss")).lower()
        same = sum(key.partition("_")[0] == name for key in self.losses)
        return f"{name}_{same + 1}" if same else name

    def _check_parts(self) -> None:
        """Raise ConfigError if the parts do not fit each other."""
        encoder, decoder, quantizer = self.encoder, self.decoder, self.quantizer
        _equal(
            "encoder.in_channels", self.in_channels, "decoder.out_channels", decoder.out_channels
        )
        _equal("encoder.stride", self.stride, "decoder.stride", decoder.stride)
        name, width = "encoder.out_channels", encoder.out_channels
        if quantizer is not None:
            _equal(name, width, "the input of the quantizer", quantizer.in_channels)
            name, width = "the output of the quantizer", quantizer.embed_dims
        _equal(name, width, "decoder.in_channels", decoder.in_channels)
        if (self.discriminator is None) != (self.adversarial is None):
            absent = "discriminator" if self.discriminator is None else "losses: AdversarialLoss"
            raise ConfigError(
                f"model.{absent} is missing",
                expected="both a discriminator and an AdversarialLoss, or neither",
                remedy="add it, or leave the other out",
            )
        if self.discriminator is not None:
            bands = self.discriminator.in_channels
            _equal("encoder.in_channels", self.in_channels, "discriminator.in_channels", bands)
        _check_losses(self, width if self._feature_width is None else self._feature_width)

    def init_weights(self) -> None:
        """Initialise the weights, and build the frozen network, when a training starts."""
        super().init_weights()
        self.build_frozen()

    def build_frozen(self) -> nn.Module | None:
        """Return the frozen network, built with the first call; None without one."""
        if self._frozen_cfg is not None and self.frozen is None:
            frozen = MODELS.build(self._frozen_cfg)
            frozen.check_bands(self.in_channels)
            self.frozen = frozen.to(next(self.parameters()).device)
        return self.frozen

    @torch.no_grad()
    def frozen_maps(
        self, inputs: Tensor, samples: Sequence[BaseDataElement] | None = None
    ) -> Sequence[Tensor]:
        """Return the frozen network's maps (B, C_l, h_l, w_l) of preprocessed images."""
        return self.build_frozen()(self._pad(inputs, valid_of(inputs, samples))[0])

    # ------------------------------------------------------------------------------ codes
    def encode(self, images: Tensor, facts: ImageFacts | None = None) -> Quantized:
        """Encode images.

        Args:
            images: (B, C, H, W) in model units.
            facts: Their ``valid`` pixels; the rest is not used.

        Returns:
            Latents (B, h * w, D), codes and losses, with ``grid`` (h, w): the size of the images
            over the stride, rounded up.

        Raises:
            ConfigError: The images have another number of bands than the encoder.
        """
        return self._encode(*self._pad(images, facts.valid if facts else None))

    def padded_shape(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the height and width up to which images of a height and width are padded."""
        cells = (self.stride * fold for fold in self._fold)
        height, width = (side + -side % cell for side, cell in zip(size, cells, strict=True))
        return height, width

    def _pad(self, images: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Fill invalid pixels with 0, and repeat the last rows and columns up to the stride."""
        check_bands(images, self.in_channels)
        if valid is not None:
            images = images.where(valid[:, None], 0)
        size = images.shape[-2:]
        down, right = (b - a for a, b in zip(size, self.padded_shape(size), strict=True))
        if down or right:
            if valid is None:
                valid = torch.ones_like(images[:, 0], dtype=torch.bool)
            valid = F.pad(valid, (0, right, 0, down))
            images = F.pad(images, (0, right, 0, down), mode="replicate")
        return images, valid

    def _encode(
        self, images: Tensor, valid: Tensor | None, stored: Sequence[Tensor] | None = None
    ) -> Quantized:
        takes_valid = getattr(self.encoder, "takes_valid", False)
        if stored is not None and self.frozen is getattr(self.encoder, "backbone", None):
            images = stored
        maps = self.encoder(images, valid) if takes_valid else self.encoder(images)
        grid, cells = tuple(maps.shape[-2:]), None
        if valid is not None:
            cells = F.adaptive_max_pool2d(valid.float(), grid).flatten(1) > 0
        return quantize(self.quantizer, maps.flatten(2).mT, cells, grid)

    def decode(
        self, latents: Tensor, grid: tuple[int, int], size: Sequence[int] | None = None
    ) -> Tensor:
        """Decode latents (B, h * w, D) on a grid (h, w) to images (B, C, H, W) in model units.

        Args:
            latents: From :meth:`encode`, or the quantizer's ``decode`` of codes.
            grid: Their grid.
            size: Height and width of the images; None: those of the grid times the stride.
        """
        images = self.decoder(latents.mT.unflatten(2, tuple(grid))).float()
        return images if size is None else images[..., : size[0], : size[1]]

    def run(
        self,
        images: Tensor,
        valid: Tensor | None = None,
        stored: Sequence[Tensor] | None = None,
    ) -> CodecPass:
        """Encode and decode images for the losses, with a draw of equivariance in training.

        Args:
            images: (B, C, H, W) in model units.
            valid: (B, H, W) bool, their valid pixels; None: all.
            stored: Their frozen features; None: computed as far as the losses need them.
        """
        self.build_frozen()
        images, valid = self._pad(images, valid)
        grid = [side // self.stride for side in images.shape[-2:]]
        on_latents, size, turns = False, grid, 0
        if self.training and self.equivariance is not None:
            on_latents, scale, turns = self.equivariance.draw()
            folds = zip(grid, self._fold, strict=True)
            size = [max(1, round(side / fold * scale)) * fold for side, fold in folds]
        inputs, input_valid = images, valid
        if size != grid or turns:
            pixels = [side * self.stride for side in size]
            images = self.equivariance.apply(images, pixels, turns)
            valid = self.equivariance.apply_valid(valid, pixels, turns)
            if not on_latents:
                inputs, input_valid, stored = images, valid, None
        quantized = self._encode(inputs, input_valid, stored)
        latents = quantized.latents.mT.unflatten(2, quantized.grid)
        decoded = self.equivariance.apply(latents, size, turns) if on_latents else latents
        pyramid = getattr(self.decoder, "pyramid", lambda latents: [self.decoder(latents)])
        *stages, reconstruction = pyramid(decoded)
        reconstruction = reconstruction.float()
        if valid is not None:
            reconstruction = reconstruction.where(valid[:, None], images)
        return CodecPass(
            *(images, reconstruction, quantized, latents),
            *(inputs, valid, input_valid, self.frozen, stages),
            stored=stored,
        )

    def _run(self, inputs: Tensor, samples: Sequence[BaseDataElement] | None) -> CodecPass:
        valid = self._facts(inputs, samples).valid
        return self.run(inputs, valid, self._stored(inputs, samples))

    def _stored(
        self, inputs: Tensor, samples: Sequence[BaseDataElement] | None
    ) -> list[Tensor] | None:
        """Return the frozen features that were computed before the training."""
        if not self.training or self.stored_maps is None:
            return None
        maps = self.stored_maps([sample.sample_idx for sample in samples])
        return [one.to(inputs.device) for one in maps]

    def _facts(self, inputs: Tensor, samples: Sequence[BaseDataElement] | None) -> ImageFacts:
        """Return the valid pixels of images.

        Raises:
            DataError: The encoder is made for pixels of another size.
        """
        _check_metres(self.encoder, samples)
        return ImageFacts(valid_of(inputs, samples))

    # ------------------------------------------------------------------------------ training
    def train_step(
        self, data: dict, optim_wrapper: OptimWrapper | OptimWrapperDict
    ) -> dict[str, Tensor]:
        """Update the autoencoder and, from its start on, the discriminator.

        Returns:
            For the log: ``loss``, the sum of the autoencoder's weighted losses, these losses,
            adaptive weights, and the losses of the discriminator.

        Raises:
            ConfigError: The optimizers do not fit the model.
        """
        own, other = _wrappers(optim_wrapper, self.discriminator is not None)
        step = own.inner_count  # as well after resuming
        batch = self.data_preprocessor(data, True)
        inputs, samples = batch["inputs"], batch.get("data_samples")
        with own.optim_context(self):
            passed = self._run(inputs, samples)
        against = other is not None and step >= self.adversarial.start
        logs = {}
        if against and self.discriminator_first:
            logs |= self._train_discriminator(passed, other)
        with own.optim_context(self):
            losses, weights = self.autoencoder_losses(passed, step)
        total = sum(losses.values())
        _update(own, total)
        if against and not self.discriminator_first:
            logs |= self._train_discriminator(passed, other)
        elif other is not None and not against:
            other._inner_count += 1  # both count steps, and so accumulate alike
        if against:  # running statistics of BatchNorm; a checkpoint has those of the first process
            statistics = [one for one in self.discriminator.buffers() if one.is_floating_point()]
            all_reduce_params(statistics, op="mean")
        logs = {"loss": total, **losses, **weights, **logs}
        return {key: value.detach() for key, value in logs.items()}

    def autoencoder_losses(
        self, passed: CodecPass, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the autoencoder's weighted losses in a step, and the adaptive weights of them."""
        losses, weights, balanced, reference = {}, {}, {}, None
        are_sums = any(getattr(one, "reduction", None) == "sum" for one in self.losses.values())
        scale = passed.images[0].numel() if are_sums else 1
        for name, loss in self.losses.items():
            factor = loss.factor(step)
            if not factor:
                continue
            value = loss(passed)
            if loss.adaptive:
                limit = 100 * scale if loss.limit is None else loss.limit
                balanced[name] = value, factor, self.encoder, limit
                continue
            losses[f"loss_{name}"] = factor * value
            if loss.is_reconstruction:
                reference = factor * value + (0.0 if reference is None else reference)
        for name, value in passed.quantized.losses.items():
            boosted = self.entropy_boost is not None and "entropy" in name
            losses[name] = value * (entropy_boost(step, *self.entropy_boost) if boosted else 1)
        factor = 0.0 if self.adversarial is None else self.adversarial.factor(step)
        if factor:
            self.discriminator.requires_grad_(False)
            logits = self.discriminator(passed.reconstruction)
            self.discriminator.requires_grad_(True)
            value = self.adversarial.of_generator(logits, passed.valid)
            if self.adversarial.adaptive:
                balanced["adversarial"] = value, factor, self.decoder, self.adversarial.limit
            else:
                losses["loss_adversarial"] = factor * value
        for name, (value, factor, network, limit) in balanced.items():
            weight = value.new_tensor(factor)  # before the reconstruction losses, or after them
            if reference is not None:
                weight = factor * adaptive_weight(reference, value, last_layer(network), limit)
            weights[f"weight_{name}"] = weight
            losses[f"loss_{name}"] = weight * value
        return losses, weights

    def discriminator_losses(self, passed: CodecPass) -> dict[str, Tensor]:
        """Return the discriminator's weighted losses."""
        real = self.discriminator(passed.images)
        fake = self.discriminator(passed.reconstruction.detach())
        return self.adversarial.of_discriminator(real, fake, passed.valid)

    def _train_discriminator(self, passed: CodecPass, wrapper: OptimWrapper) -> dict[str, Tensor]:
        with wrapper.optim_context(self):
            losses = self.discriminator_losses(passed)
        _update(wrapper, sum(losses.values()))
        return {f"discriminator_{key}": value for key, value in losses.items()}

    # ------------------------------------------------------------------------------ inference
    def _forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> Tensor:
        """Return reconstructions (B, C, H, W) in model units, for ``mode='tensor'``."""
        quantized = self.encode(inputs, self._facts(inputs, data_samples))
        return self.decode(quantized.latents, quantized.grid, inputs.shape[-2:])

    def loss(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> dict[str, Tensor]:
        """Return the autoencoder's losses of the first training step."""
        return self.autoencoder_losses(self._run(inputs, data_samples), 0)[0]

    def predict(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> list[CodecDataSample]:
        """Encode and decode images.

        Args:
            inputs: (B, C, H, W) preprocessed images.
            data_samples: Their samples; the metainfo is kept.

        Returns:
            Samples with image and reconstruction in the units of the data, the reconstruction NaN
            where the image has no data, latents and, if there are any, codes.
        """
        facts = self._facts(inputs, data_samples)
        quantized = self.encode(inputs, facts)
        decoded = self.decode(quantized.latents, quantized.grid, inputs.shape[-2:])
        samples = self._new_samples(inputs, decoded, facts.valid, data_samples)
        for row, sample in enumerate(samples):
            sample.latents = quantized.latents[row].mT.unflatten(1, quantized.grid)
            if quantized.indices is not None:
                grid = [a // b for a, b in zip(quantized.grid, self._fold, strict=True)]
                sample.codes = quantized.indices[row].unflatten(0, grid)
        return samples

    def _new_samples(
        self,
        images: Tensor,
        decoded: Tensor,
        valid: Tensor | None,
        data_samples: Sequence[BaseDataElement] | None,
    ) -> list[CodecDataSample]:
        """Return samples with images and reconstructions in the units of the data, and validity."""
        images, restored = map(self.data_preprocessor.restore, (images, decoded))
        if valid is not None:
            restored = restored.masked_fill(~valid.unsqueeze(-3), torch.nan)
        of_codes, samples = {}, []
        if self.quantizer is not None:
            kind = self.quantizer.indices_kind
            of_codes = dict(codebook_sizes=self.quantizer.codebook_sizes, indices_kind=kind)
        for row, pair in enumerate(zip(images, restored, strict=True)):
            meta = dict(data_samples[row].metainfo) if data_samples else {}
            sample = CodecDataSample(metainfo=meta | of_codes)
            sample.image, sample.reconstruction = pair
            if valid is not None:
                sample.valid_mask = valid[row]
                if valid.ndim == 3:
                    padded = self.padded_shape(valid.shape[1:])
                    sample.set_metainfo(dict(padded_shape=padded))
            samples.append(sample)
        return samples


def _wrappers(wrapper: Any, against: bool) -> tuple[OptimWrapper, OptimWrapper | None]:
    """Return the optimizer wrappers of autoencoder and, if there is one, discriminator, checked."""
    several = isinstance(wrapper, OptimWrapperDict)
    names = sorted(wrapper.keys()) if several else ["autoencoder"]
    expected = ["autoencoder", "discriminator"][: 1 if not against else 2]
    if names != expected:
        raise ConfigError(
            "optim_wrapper does not fit the model",
            expected=f"optimizers of {' and '.join(expected)}",
            found=f"those of {' and '.join(names)}",
            remedy="with a discriminator, set constructor='hook.PartsOptimWrapperConstructor' "
            "and an optimizer wrapper for each of the two",
        )
    pair = [wrapper[name] for name in names] if several else [wrapper]
    counts = [one._accumulative_counts for one in pair]
    if len(set(counts)) > 1:
        raise ConfigError(
            "optim_wrapper: autoencoder and discriminator accumulate gradients differently",
            expected="equal accumulative_counts",
            found=counts,
            remedy="set both to the same number",
        )
    return pair[0], pair[1] if len(pair) > 1 else None


def _check_metres(encoder: nn.Module, samples: Sequence[BaseDataElement] | None) -> None:
    """Raise DataError for images of other pixels than those of an encoder's tokenizer."""
    own = getattr(getattr(encoder, "tokenizer", None), "resolution", None)
    for sample in samples or () if own is not None else ():
        metres = sample.get("resolution") or math.nan
        if abs(metres / own - 1) > 0.05:
            raise DataError(
                f"{sample.get('img_path', 'an image')}: pixels of another size",
                expected=f"{own:g} m, model.encoder.tokenizer.resolution",
                found=f"{metres:g} m",
                remedy="resample it, or use a hook.SeriesAutoencoder, which takes any size",
            )


def _check_losses(model: TileAutoencoder, feature_width: int) -> None:
    """Raise ConfigError if the losses do not fit the other parts of their model."""
    for name, loss in model.losses.items():
        if loss.needs_frozen and model._frozen_cfg is None and model.frozen is None:
            raise ConfigError(
                f"model.losses: {type(loss).__name__} compares features of a frozen network",
                expected="model.frozen=dict(type='hook.FrozenBackbone', ...)",
                found="frozen=None",
                remedy="add frozen, or leave the loss out",
            )
        if hasattr(loss, "feature_channels"):
            other = f"losses: in_channels of {name}"
            _equal("the aligned features", feature_width, other, loss.in_channels)
        if getattr(loss, "stages", False) and not hasattr(model.decoder, "pyramid"):
            raise ConfigError(
                "model.losses: stages=True needs a decoder with images of several sizes",
                expected="hook.ProgressiveDecoder",
                found=type(model.decoder).__name__,
                remedy="change the decoder, or set stages=False",
            )
    balanced = [one for one in (*model.losses.values(), model.adversarial) if one is not None]
    if any(one.adaptive for one in balanced) and not any(
        one.is_reconstruction for one in model.losses.values()
    ):
        raise ConfigError(
            "model.losses: adaptive weights are relative to reconstruction losses",
            expected="a PixelLoss, PerceptualLoss or GramLoss",
            found="none",
            remedy="add one, or set adaptive=False",
        )


def _equal(name: str, value: int, other_name: str, other: int) -> None:
    if value != other:
        raise ConfigError(
            f"model: {name} and {other_name} differ",
            expected="equal numbers",
            found=f"{value} and {other}",
            remedy="correct one of them",
        )


def check_bands(images: Tensor, expected: int) -> None:
    """Raise ConfigError for images (..., C, H, W) of another number of bands than the encoder's."""
    if images.shape[-3] != expected:
        raise ConfigError(
            "the images do not fit model.encoder",
            expected=f"{expected} bands",
            found=f"{images.shape[-3]} bands",
            remedy="choose the bands in the dataset's metainfo, or set in_channels of the "
            "encoder and out_channels of the decoder",
        )


def valid_of(inputs: Tensor, samples: Sequence[BaseDataElement] | None) -> Tensor | None:
    """Return the valid pixels (B, H, W) of images, None if all are."""
    valid = valid_pixels(inputs, samples)
    return None if valid.all() else valid


def last_layer(network: nn.Module) -> Tensor:
    """Return the weights at which adaptive weights compare gradients: a network's ``last_layer``.

    Of a network without it, those of its last layer.
    """
    if hasattr(network, "last_layer"):
        return network.last_layer
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    return layers[-1].weight


def _update(wrapper: OptimWrapper, loss: Tensor) -> None:
    """Do what ``OptimWrapper.update_params`` does, with gradients averaged over processes."""
    wrapper.backward(wrapper.scale_loss(loss))
    if wrapper.should_update():
        parameters = (one for group in wrapper.param_groups for one in group["params"])
        all_reduce_params([one.grad for one in parameters if one.grad is not None], op="mean")
        wrapper.step()
        wrapper.zero_grad()


def quantize(
    quantizer: nn.Module | None,
    latents: Tensor,
    valid: Tensor | None,
    grid: tuple[int, int] | None = None,
) -> Quantized:
    """Quantize latents (B, N, D), if there is a quantizer.

    Raises:
        ConfigError: An option of the quantizer turns out to be invalid.
        DataError: Latents are not finite, of which codes would say nothing. A training goes on,
            whose loss tells.
    """
    if quantizer is None:
        return Quantized(latents, grid=grid)
    codes = quantizer.codebook_sizes is not None and not torch.is_grad_enabled()
    if codes and not latents.isfinite().all():
        raise DataError(
            "the latents of the encoder are not finite and have no codes",
            expected="finite values",
            found="NaN or infinity",
            remedy="check the values of the images, their scaling and the checkpoint",
        )
    try:
        return quantizer(latents, valid, grid=grid)
    except ValueError as error:
        raise ConfigError(
            f"model.quantizer: {error}", remedy=f"see {type(quantizer).__name__}"
        ) from error
