"""Autoencoder of images and time series, whose latents are packed."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from hook.errors import ConfigError
from hook.models.autoencoders.losses import AlignmentLoss, CodecPass
from hook.models.autoencoders.space_time import SpaceTimeDecoder, SpaceTimeEncoder
from hook.models.autoencoders.tile_autoencoder import (
    TileAutoencoder,
    check_bands,
    quantize,
)
from hook.models.token_model import collect_facts
from hook.quantizers import Quantized
from hook.registry import MODELS
from hook.structures import CodecDataSample
from hook.tokenizers import ImageFacts, Packed
from hook.tokenizers.packing import unpack_patches


@MODELS.register_module()
class SeriesAutoencoder(TileAutoencoder):
    """Images and time series of any dates, sizes and band groups to latents or codes, and back.

    Dates, wavelengths and ground resolution come from the data samples, as validity does
    (:func:`hook.models.token_model.collect_facts`). Patches of missing dates and clouds have no
    latents; invalid pixels cost nothing. For the losses a date is an image.

    With ``fills=True`` of the decoder, patches without latents, of dates that are known, are
    decoded too, from those of other dates and places. Training teaches it with ``hide``.

    :meth:`encode` and :meth:`decode` are those of single images, as maps of latents.

    Args:
        encoder: Config of a :class:`SpaceTimeEncoder` with ``positions="ground"``.
        decoder: Config of a :class:`SpaceTimeDecoder` for the same patches and band groups.
        hide: Probability with which training withholds a date of a series from the encoder; of
            each series at least one date stays. Needs ``fills=True``.
        **parts: Options of :class:`TileAutoencoder`, without discriminator and equivariance.

    Raises:
        ConfigError: The parts do not fit each other.
    """

    def __init__(self, encoder: dict, decoder: dict, hide: float = 0.0, **parts) -> None:
        self.hide = hide
        super().__init__(encoder, decoder, **parts)

    def _check_parts(self) -> None:
        of_maps = [one for one in self.losses.values() if type(one) is AlignmentLoss]
        others = self.discriminator, self.equivariance, self.adversarial, *of_maps
        self._check_kinds(SpaceTimeEncoder, SpaceTimeDecoder, others=others)
        super()._check_parts()
        tokenizer, decoder = self.encoder.tokenizer, self.decoder
        ours = tokenizer.on_ground, tokenizer.each, tokenizer.patch
        groups = [len(group.bands) for group in tokenizer.groups]
        theirs = decoder.groups
        if ours != (True, False, decoder.patch) or not decoder.on_ground or groups != theirs:
            raise ConfigError(
                "model: encoder and decoder differ, or do not know where patches are",
                expected="positions='ground', the same patch_size and bands of each group",
                found=f"patches {tokenizer.patch} and {decoder.patch}, groups {groups} and {theirs}"
                f", each={tokenizer.each}, positions on the ground: {tokenizer.on_ground} and "
                f"{decoder.on_ground}",
                remedy="correct them",
            )
        if not 0 <= self.hide < 1 or self.hide and decoder.mask_tokens is None:
            raise ConfigError(
                "model.hide",
                expected="a probability below 1, and fills=True of the decoder",
                found=f"hide={self.hide}, fills={decoder.mask_tokens is not None}",
                remedy="set decoder.fills=True, or hide=0",
            )

    # ------------------------------------------------------------------------------ codes
    def encode_series(
        self, images: Tensor, facts: ImageFacts | None = None
    ) -> tuple[Packed, Quantized]:
        """Encode images or series.

        Args:
            images: (B, C, H, W), or (B, T, C, H, W) series, in model units.
            facts: Their validity, resolution, dates and wavelengths.

        Returns:
            Packed latents (M, D) for :meth:`decode_series`; and the same padded to (B, N, D), with
            the codes and losses of the quantizer.

        Raises:
            DataError: A fact is missing, or latents are not finite and have no codes.
        """
        packed = self.encoder.encode(images, facts)
        packed = packed.with_values(packed.values[:, : self.encoder.out_channels])
        latents, inside = packed.padded()
        quantized = quantize(self.quantizer, latents, inside)
        values = quantized.latents
        values = values.flatten(0, 1) if inside is None else values[inside]
        return packed.with_values(values), quantized

    def decode_series(
        self, packed: Packed, size: Sequence[int], at: Packed | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decode packed latents.

        Args:
            packed: Latents (M, D) of B samples with T time steps.
            size: T, and height and width in pixels.
            at: Patches to decode; None: those of the latents. Those without latents are decoded by
                a decoder that ``fills``.

        Returns:
            (B, T, C, H, W) images in model units, and (B, T, H, W) bool where all their bands are
            decoded; other values are 0. Bands of a coarser grid are repeated over its pixels.
        """
        images = masks = None
        for part, group in zip(
            self.decoder.decode(packed, at), self.encoder.tokenizer.groups, strict=True
        ):
            ones = part.with_values(torch.ones_like(part.values))
            for name, patches in (("values", part), ("known", ones)):
                maps = torch.stack(unpack_patches(patches, self.decoder.patch)).float()
                for axis in (-2, -1):
                    maps = maps.repeat_interleave(group.factor, dim=axis)
                maps = maps[:, : size[0], :, : size[1], : size[2]]
                if name == "known":
                    known = maps[:, :, 0] > 0
                    masks = known if masks is None else masks & known
                    continue
                if images is None:
                    shape = (*maps.shape[:2], self.in_channels, *maps.shape[3:])
                    images = maps.new_zeros(shape)
                index = torch.tensor(list(group.bands), device=maps.device)
                images = images.index_copy(2, index, maps)
        return images, masks

    def run(
        self, images: Tensor, facts: ImageFacts | None = None, hidden: Tensor | None = None
    ) -> CodecPass:
        """Encode and decode images or series.

        Args:
            images: (B, C, H, W), or (B, T, C, H, W) series, in model units.
            facts: Their validity, resolution, dates and wavelengths.
            hidden: (B, T) bool, dates that the encoder does not see.

        Returns:
            What the losses compare, the dates as B * T images. Pixels that are invalid, or of
            patches that are not decoded, are invalid.

        Raises:
            ConfigError: The images have other bands.
            DataError: A fact is missing.
        """
        check_bands(images, self.in_channels)
        self.build_frozen()
        facts, tokenizer = facts or ImageFacts(), self.encoder.tokenizer
        seen = facts
        if hidden is not None and facts.dates is not None:
            seen = replace(facts, dates=facts.dates.masked_fill(hidden, torch.nan))
        packed, quantized = self.encode_series(images, seen)
        at = None
        if self.decoder.mask_tokens is not None:
            at = tokenizer.cells(torch.zeros_like(images), replace(facts, valid=None))
        series = images if images.ndim == 5 else images[:, None]
        size = (series.shape[1], *series.shape[-2:])
        decoded, valid = self.decode_series(packed, size, at)
        known = tokenizer.known(series, facts)
        valid = valid if known is None else valid & known.all(dim=2)
        valid, targets = valid.flatten(0, 1), series.flatten(0, 1)
        targets = targets.where(valid[:, None], 0)
        decoded = decoded.flatten(0, 1).where(valid[:, None], targets)
        return CodecPass(
            *(targets, decoded, quantized, quantized.latents.mT[..., None], targets),
            *(None if valid.all() else valid,) * 2,
            *(self.frozen, (), packed),
        )

    def _run(
        self, inputs: Tensor, samples: Sequence[BaseDataElement] | None, draws: bool = True
    ) -> CodecPass:
        facts = collect_facts(self.encoder.tokenizer, inputs, samples)
        hidden = None
        if facts.dates is not None and facts.dates.shape[1] > 1:
            hidden = torch.zeros_like(facts.dates, dtype=torch.bool)
            if draws and self.training and self.hide:
                hidden = self.draw_hidden(facts)
            for row, sample in enumerate(samples or ()):
                hidden[row, list(sample.get("hidden_dates", ()))] = True
        return self.run(inputs, facts, hidden)

    def frozen_maps(
        self, inputs: Tensor, samples: Sequence[BaseDataElement] | None = None
    ) -> Sequence[Tensor]:
        """Refuse: features of series are not computed before training."""
        raise ConfigError(
            "custom_hooks: a FrozenFeatureHook stores features of images",
            expected="hook.TileAutoencoder or hook.TokenPretrainer",
            found="hook.SeriesAutoencoder",
            remedy="remove the hook: the features are then computed for each batch",
        )

    def draw_hidden(self, facts: ImageFacts) -> Tensor:
        """Draw the dates (B, T) bool that the encoder does not see."""
        there = facts.dates.isfinite()
        if facts.valid is not None and facts.valid.ndim == 4:
            there &= facts.valid.flatten(2).any(dim=2)
        draws = torch.rand(there.shape, device=there.device)
        hidden = draws < self.hide
        last = draws.masked_fill(~there, -1).argmax(dim=1, keepdim=True)
        return hidden.scatter(1, last, False)

    # ------------------------------------------------------------------------------ inference
    def _forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> Tensor:
        """Return reconstructions in model units and of the shape of the inputs."""
        return self._run(inputs, data_samples, draws=False).reconstruction.view_as(inputs)

    def predict(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> list[CodecDataSample]:
        """Encode and decode images or series.

        Args:
            inputs: (B, C, H, W), or (B, T, C, H, W) series.
            data_samples: Their samples. Dates whose numbers are in ``hidden_dates`` of the metainfo
                are withheld from the encoder.

        Returns:
            Samples with image and reconstruction in the units of the data, the reconstruction NaN
            where the image has no data or nothing is decoded, ``valid_mask``, and of each latent
            ``places`` and, if there are any, ``codes``.
        """
        passed = self._run(inputs, data_samples, draws=False)
        images, decoded = (x.view_as(inputs) for x in (passed.images, passed.reconstruction))
        valid = passed.valid
        if valid is None:
            valid = torch.ones_like(passed.images[:, 0], dtype=torch.bool)
        valid = valid.reshape(*inputs.shape[:-3], *inputs.shape[-2:])
        samples = self._new_samples(images, decoded, valid, data_samples)
        indices, places = passed.quantized.indices, passed.packed.places.split(passed.packed.counts)
        for row, sample in enumerate(samples):
            sample.places = places[row]
            if indices is not None:
                sample.codes = indices[row : row + 1, : len(places[row])]
        return samples
