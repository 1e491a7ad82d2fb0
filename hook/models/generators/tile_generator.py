"""Generators of tiles on MMEngine's ``BaseModel``."""

import copy
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from hook.arguments import bad_argument, check_int, short_repr
from hook.checkpoint import load_weights
from hook.engine.models import evaluating
from hook.engine.tta import apply_view, views
from hook.errors import CheckpointError, ConfigError
from hook.models.autoencoders import SeriesAutoencoder, SlotAutoencoder, TileAutoencoder
from hook.models.generators.frozen_features import FrozenFeatures
from hook.models.generators.sampling import image_generators
from hook.models.image_model import ImageModel
from hook.models.token_model import valid_pixels
from hook.progress import progress_bar
from hook.registry import MODELS
from hook.structures import CodecDataSample
from hook.tokenizers import ImageFacts


@MODELS.register_module()
class TileGenerator(ImageModel):
    """New tiles: a network learns the codes or the latents of a frozen autoencoder.

    ``network`` chooses the method by its type: ``hook.CodeTransformer`` (one code per position),
    ``hook.FactorizedTransformer`` (factors of a code), ``hook.DepthTransformer`` (codes that refine
    each other), ``hook.FlatTransformer`` (the same in one longer sequence) or
    ``hook.LightningDiT`` (latents).

    Codes or latents of the training images are computed for each batch, or once for all by
    :class:`hook.engine.frozen_features.CodeCacheHook`, which latents need: it also measures the
    mean and deviation of their channels. The weights of the autoencoder are part of a checkpoint.

    Args:
        codec: Config of the :class:`TileAutoencoder`.
        network: Config of the network; what follows from the other options is filled in.
        tile_size: Side of the tiles in pixels, or (height, width).
        condition: ``"none"``; ``"class"``, the ``gt_label`` of samples; or ``"map"``, a class for
            each position: the most frequent label of ``gt_sem_seg`` in its square.
        num_classes: Number of classes of conditions.
        label_drop: Share of the images in training without their condition, for guidance.
        codec_weights: Checkpoint of the autoencoder, which a training starts from: a file, or
            ``hook://NAME`` of a published model.
        frozen: Config of a network such as ``hook.FrozenBackbone``, towards whose last feature map
            ``alignment`` of a :class:`LightningDiT` draws it; built when a training needs it, and
            no part of checkpoints.
        turn: Turn and mirror images, and maps with them, at random: one of the eight symmetries of
            a square, or four of other tiles.
        ignore_index: Label of an unknown class.
        data_preprocessor: That of the autoencoder, which is used without it.
        init_cfg: MMEngine's initialisation config.

    Attributes:
        target: ``"codes"`` or ``"latents"``, what the network learns.
        stored_maps: Function from the numbers of training images to the codes or latents of their
            views, set by the hook.

    Raises:
        ConfigError: The parts do not fit each other.
    """

    def __init__(
        self,
        codec: dict,
        network: dict,
        tile_size: int | Sequence[int],
        condition: str = "none",
        num_classes: int = 0,
        label_drop: float = 0.1,
        codec_weights: str | None = None,
        frozen: dict | None = None,
        turn: bool = False,
        ignore_index: int = 255,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        built = MODELS.build(copy.deepcopy(codec))
        without_maps = isinstance(built, SeriesAutoencoder | SlotAutoencoder)
        if not isinstance(built, TileAutoencoder) or without_maps:
            raise ConfigError(
                "model.codec has no map of codes or latents",
                expected="dict(type='hook.TileAutoencoder', ...)",
                found=type(built).__name__,
                remedy="give the model of a config of configs/autoencoders",
            )
        super().__init__(data_preprocessor=built.data_preprocessor, init_cfg=init_cfg)
        self._check_preprocessor(data_preprocessor)
        self.codec, self.in_channels = built.requires_grad_(False).eval(), built.in_channels
        self.codec_weights, self._codec_loaded = codec_weights, False
        self.tile_size = _sides(tile_size)
        fold = getattr(built.quantizer, "fold", (1, 1))
        self.cell = tuple(built.stride * side for side in fold)  # pixels of a position
        grid = [-(-side // cell) for side, cell in zip(self.tile_size, self.cell, strict=True)]
        self.latent_grid = tuple(side * f for side, f in zip(grid, fold, strict=True))
        kind = network.get("type")
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
        self.target = getattr(kind, "target", None)
        options = dict(
            grid=grid,
            condition=dict(kind=condition, num_classes=num_classes, drop_rate=label_drop),
            **self._target_options(),
        )
        self.network = MODELS.build(network, default_args=options)
        aligned = getattr(self.network, "alignment", None) is not None
        if aligned != (frozen is not None):
            raise ConfigError(
                "model.frozen and model.network.alignment belong together",
                expected="both, for a hook.LightningDiT, or neither",
                found=f"frozen={frozen}, alignment={network.get('alignment')}",
                remedy="add the other one, or leave both out",
            )
        self.frozen = None if frozen is None else FrozenFeatures(frozen, self.in_channels)
        self.ignore_index, self._warned = ignore_index, False
        square = self.tile_size[0] == self.tile_size[1] and grid[0] == grid[1]
        self._views = list(views(square)) if turn else [(0, False)]
        self.stored_maps: Callable[[Sequence[int]], list[Tensor]] | None = None
        # of the channels of latents, over the training images; zeros: not measured yet
        channels = options.get("in_channels", 0)
        self.register_buffer("feature_mean", torch.zeros(channels))
        self.register_buffer("feature_std", torch.zeros(channels))
        self.stored_facts = (
            json.dumps(codec, default=str, sort_keys=True),
            *(self.tile_size, self._views, self.target),
        )
        if frozen is not None:
            self.stored_facts += (json.dumps(frozen, default=str, sort_keys=True),)

    def _check_preprocessor(self, given: dict | None) -> None:
        """Raise ConfigError if the autoencoder was trained with another normalisation."""
        if given is None:
            return
        other, own = MODELS.build(given), self.data_preprocessor
        same = all(torch.equal(getattr(own, k), getattr(other, k)) for k in ("mean", "std"))
        if not same or own.value_range != getattr(other, "value_range", None):
            raise ConfigError(
                "data_preprocessor is not that of model.codec",
                expected=f"mean {own.mean.flatten().tolist()}, std {own.std.flatten().tolist()}",
                found=f"mean {other.mean.flatten().tolist()}, std {other.std.flatten().tolist()}",
                remedy="leave data_preprocessor out of the model, or set that of the codec",
            )

    def _target_options(self) -> dict:
        """Return the options of the network that follow from the quantizer."""
        quantizer = self.codec.quantizer
        sizes = getattr(quantizer, "codebook_sizes", None)
        if self.target == "codes" and sizes is not None:
            return dict(codebook_sizes=sizes)
        if self.target == "latents" and sizes is None:
            return dict(in_channels=self.codec.decoder.in_channels)
        raise ConfigError(
            "model.network does not fit the quantizer of model.codec",
            expected="hook.LightningDiT for latents (GaussianQuantizer, or none), a transformer "
            "over codes for all others",
            found=f"a network of {self.target} with {type(quantizer).__name__}",
            remedy="change the network, or the quantizer",
        )

    def init_weights(self) -> None:
        """Initialise the network and load the autoencoder, when a training starts.

        Raises:
            ConfigError: ``codec_weights`` is not set.
            CheckpointError: They do not fit.
        """
        self.network.init_weights()
        if self.codec_weights is None:
            raise ConfigError(
                "model.codec_weights is missing: the autoencoder would be untrained",
                expected="a checkpoint of the autoencoder",
                found=None,
                remedy="train the autoencoder first, and name its checkpoint",
            )
        load_weights(self.codec, self.codec_weights)
        self._codec_loaded = self._is_init = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Load, but refuse a checkpoint of another autoencoder than that of ``codec_weights``."""
        if self._codec_loaded:
            for key, own in self.codec.state_dict(prefix=f"{prefix}codec.").items():
                given = state_dict.get(key)
                if given is not None and not torch.equal(given.to(own), own):
                    raise CheckpointError(
                        "the checkpoint has another autoencoder than model.codec_weights",
                        expected=f"the weights of {self.codec_weights}",
                        found=f"other values in {key}",
                        remedy="name the checkpoint of the autoencoder that the generator was "
                        "trained with, or train the generator anew",
                    )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def train(self, mode: bool = True) -> "TileGenerator":
        """Set training mode, except for the autoencoder."""
        super().train(mode)
        self.codec.eval()
        return self

    # ------------------------------------------------------------------------------ targets
    def build_frozen(self) -> nn.Module:
        """Return the autoencoder, and the network of ``frozen`` with it if there is one."""
        return self.codec if self.frozen is None else self.frozen.beside(self.codec)

    def frozen_maps(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> list[Tensor]:
        """Return the codes (B, Q, h, w) or latents (B, D, h, w) of each view of images.

        The features of ``frozen``, those of the images as they are, come last.

        Args:
            inputs: (B, C, H, W) normalised images of the size of a tile.
            data_samples: Their samples, for the validity of the pixels.
        """
        valid = valid_pixels(inputs, data_samples)
        maps = [self._encode(*(apply_view(x, v) for x in (inputs, valid))) for v in self._views]
        return maps if self.frozen is None else [*maps, self.frozen(inputs)]

    @torch.no_grad()
    def _encode(self, images: Tensor, valid: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != self.tile_size:
            raise ConfigError(
                "the images do not have the size of a tile",
                expected=f"model.tile_size {self.tile_size}",
                found=tuple(images.shape[-2:]),
                remedy="cut or resize the images, or correct tile_size",
            )
        facts = ImageFacts(None if valid.all() else valid)
        quantized = self.codec.encode(images, facts)
        if self.target == "latents":
            return quantized.latents.float().mT.unflatten(2, self.latent_grid)
        codes = quantized.indices
        codes = codes[..., None] if codes.ndim == 2 else codes
        return codes.mT.unflatten(2, self.network.grid)

    def _targets(self, maps: Tensor) -> Tensor:
        """Return what the network learns, codes (B, N, Q) or normalised latents (B, N, D)."""
        targets = maps.flatten(2).mT
        if self.target == "codes":
            return targets
        _check_statistics(self)
        return (targets - self.feature_mean) / self.feature_std

    def _batch(
        self, inputs: Tensor, samples: Sequence[BaseDataElement], drawn: list[int]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return targets, conditions, and valid positions (B, N), of a view of each image."""

        def turned(batch: Tensor) -> Tensor:
            pairs = zip(batch, drawn, strict=True)
            return torch.stack([apply_view(one, self._views[view]) for one, view in pairs])

        valid = turned(valid_pixels(inputs, samples))
        if self.stored_maps is None or not self.training:  # stored are those of training images
            maps = self._encode(turned(inputs), valid)
        else:
            stored = self.stored_maps([sample.sample_idx for sample in samples])
            maps = torch.stack([stored[view][row] for row, view in enumerate(drawn)])
        positions = F.adaptive_max_pool2d(self._padded(valid.float(), 0), self.network.grid) > 0
        known = None if positions.all() else positions.flatten(1)
        return self._targets(maps.to(inputs.device)), self._labels(samples, turned, inputs), known

    def _padded(self, maps: Tensor, value: float) -> Tensor:
        """Pad maps (B, H, W) of tiles to whole positions."""
        down, right = (-side % cell for side, cell in zip(self.tile_size, self.cell, strict=True))
        return F.pad(maps, (0, right, 0, down), value=value)

    # ------------------------------------------------------------------------------ conditions
    def _labels(
        self, samples: Sequence[BaseDataElement], turned: Callable[[Tensor], Tensor], like: Tensor
    ) -> Tensor:
        """Return the conditions of samples: zeros without any, classes, or maps."""
        kind = self.network.condition.kind
        if kind == "none":
            return torch.zeros(len(samples), dtype=torch.long, device=like.device)
        field = "gt_label" if kind == "class" else "gt_sem_seg"
        given = [sample.get(field) for sample in samples]
        if self.training and not self._warned and all(one is None for one in given):
            self._warned = True
            warnings.warn(
                f"condition={kind!r}, but no sample of a batch has {field}: the generator learns "
                "no condition from it",
                stacklevel=2,
            )
        if kind == "class":
            unknown = self.ignore_index
            rows = torch.tensor([unknown if one is None else int(one) for one in given])
            return self.conditions(rows.to(like.device))
        nothing = torch.full(self.tile_size, self.ignore_index, device=like.device)
        masks = [nothing if one is None else one.data[0].to(nothing) for one in given]
        return self.conditions(turned(torch.stack(masks)))

    def conditions(self, labels: Tensor) -> Tensor:
        """Return the network's conditions for (B,) classes or (B, H, W) classes of pixels.

        See :meth:`ConditionEmbedding.from_labels`; maps are padded to whole positions.
        """
        labels = self._padded(labels, self.ignore_index) if labels.ndim == 3 else labels
        grid = self.network.condition_grid
        return self.network.condition.from_labels(labels, self.ignore_index, grid)

    def _condition(self, batch: int, condition: int | Sequence[int] | Tensor | None) -> Tensor:
        """Return the conditions of the network for those of :meth:`sample`."""
        device, kind = next(self.network.parameters()).device, self.network.condition.kind
        shape = (batch, *self.tile_size) if kind == "map" else (batch,)
        if kind == "none" and condition is None:
            return torch.zeros(shape, dtype=torch.long, device=device)
        labels = _classes(self.ignore_index if condition is None else condition).to(device)
        fits = labels.ndim == 0 or tuple(labels.shape) in (shape, shape[1:])
        if kind == "none" or not fits:
            raise ConfigError(
                "the condition does not fit the generator",
                expected="None" if kind == "none" else f"one class, or labels of {shape}",
                found=f"labels of {tuple(labels.shape)}" if labels.ndim else int(labels),
                remedy=f"the generator was trained with condition={kind!r}",
            )
        return self.conditions(labels.expand(shape))

    # ------------------------------------------------------------------------------ passes
    def _forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> Tensor:
        """Return what the network learns, codes (B, N, Q) or normalised latents (B, N, D)."""
        return self._targets(self._encode(inputs, valid_pixels(inputs, data_samples)))

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Return the losses of the network for images (B, C, H, W)."""
        drawn = torch.randint(len(self._views), (len(inputs),)).tolist()
        batch = self._batch(inputs, data_samples, drawn)
        if self.frozen is None:
            return self.network.loss(*batch)
        return self.network.loss(*batch, self._features(inputs, data_samples, drawn))

    def _features(
        self, inputs: Tensor, samples: Sequence[BaseDataElement], drawn: list[int]
    ) -> Tensor:
        """Return the features (B, D, h, w) of ``frozen``, turned as the images are."""
        if self.stored_maps is None or not self.training:
            features = self.frozen(inputs)
        else:
            features = self.stored_maps([sample.sample_idx for sample in samples])[-1]
        pairs = zip(features.to(inputs.device), drawn, strict=True)
        return torch.stack([apply_view(one, self._views[view]) for one, view in pairs])

    def predict(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement]
    ) -> list[CodecDataSample]:
        """Return the information of the codes of images, given the condition.

        Args:
            inputs: (B, C, H, W) normalised images.
            data_samples: Their samples; the metainfo is kept.

        Returns:
            Samples with ``codes`` and ``bits``, minus the binary logarithm of the probability of
            each; both (h, w) or (h, w, Q).

        Raises:
            ConfigError: The network learns latents, which have no probability.
        """
        if self.target != "codes":
            raise ConfigError(
                "a flow gives no probability of its latents, so that there is nothing to predict",
                expected="a network over codes",
                found=type(self.network).__name__,
                remedy="leave val_dataloader and test_dataloader out (None)",
            )
        codes, labels, _ = self._batch(inputs, data_samples, [0] * len(inputs))
        bits = self.network.code_lengths(codes, labels) / math.log(2)
        quantizer, samples = self.codec.quantizer, []
        for sample, *fields in zip(data_samples, codes, bits, strict=True):
            meta = dict(sample.metainfo, codebook_sizes=quantizer.codebook_sizes)
            new = CodecDataSample(metainfo=meta | dict(indices_kind=quantizer.indices_kind))
            for name, value in zip(("codes", "bits"), fields, strict=True):
                value = value.unflatten(0, self.network.grid)
                setattr(new, name, value[..., 0] if quantizer.indices_kind == "single" else value)
            if "valid_mask" in sample:
                new.valid_mask = sample.valid_mask.data[0] > 0
            samples.append(new)
        return samples

    # ------------------------------------------------------------------------------ sampling
    @torch.no_grad()
    def sample(
        self,
        batch: int,
        condition: int | Sequence[int] | Tensor | None = None,
        seed: int = 0,
        first: int = 0,
        **options,
    ) -> Tensor:
        """Draw codes or latents of new tiles.

        The draws of a tile depend on the seed and its number alone, not on the batch it is in.

        Args:
            batch: Number of tiles B.
            condition: A class for all, or (B,) classes; for maps (H, W) or (B, H, W) classes of the
                pixels of a tile. None: unknown.
            seed: Seed of the draws.
            first: Number of the first tile.
            **options: Changes of the network's ``sampling`` (:class:`CodeSampling`,
                :class:`FlowSampling`).

        Returns:
            Codes as the quantizer has them, (B, N) or (B, N, Q), or latents (B, N, D), for
            :meth:`decode`.

        Raises:
            ConfigError: Condition, seed or an option do not fit, or the network gives no finite
                values, or the statistics of the latents are not known.
        """
        check_int("batch", batch)
        check_int("first", first, 0)
        generators = image_generators(seed, range(first, first + batch))
        labels = self._condition(batch, condition)
        if self.target == "latents":
            _check_statistics(self)
        with evaluating(self):
            found = self.network.sample(labels, generators, **options)
        if self.target == "latents":
            return found * self.feature_std + self.feature_mean
        return found[..., 0] if self.codec.quantizer.indices_kind == "single" else found

    @torch.no_grad()
    def decode(self, sampled: Tensor) -> Tensor:
        """Return the images (B, C, H, W), in the units of the data, of :meth:`sample`'s result."""
        if self.target == "codes":
            sampled = self.codec.quantizer.decode(sampled, self.latent_grid)
        images = self.codec.decode(sampled, self.latent_grid, self.tile_size)
        return self.data_preprocessor.restore(images)

    def generate(
        self,
        count: int,
        condition: int | Sequence[int] | Tensor | None = None,
        batch_size: int = 16,
        first: int = 0,
        progress: bool = True,
        **options,
    ) -> Iterator[Tensor]:
        """Draw and decode tiles, in batches.

        Args:
            count: Number of tiles.
            condition: See :meth:`sample`; B is ``count``.
            batch_size: Tiles of a batch.
            first: Number of the first tile.
            progress: Show a progress bar.
            **options: ``seed`` and further options of :meth:`sample`.

        Yields:
            (b, C, H, W) images in the units of the data.

        Raises:
            ConfigError: See :meth:`sample`.
        """
        check_int("count", count)
        check_int("batch_size", batch_size)
        of_all = {"map": 2}.get(self.network.condition.kind, 0)  # axes of one condition for all
        each = condition is not None and _classes(condition).ndim > of_all
        if each and len(condition) != count:
            raise bad_argument("condition", condition, f"one for all, or one for each of {count}")
        bar = progress_bar(total=count, desc="generate", unit="tile", show=progress)
        with bar:
            for start in range(0, count, batch_size):
                size, given = min(batch_size, count - start), condition
                if each:
                    given = given[start : start + size]
                yield self.decode(self.sample(size, given, first=first + start, **options))
                bar.update(size)


def _sides(tile_size: int | Sequence[int]) -> tuple[int, int]:
    sides = (tile_size, tile_size) if np.ndim(tile_size) == 0 else tuple(tile_size)
    if len(sides) != 2:
        raise bad_argument("model.tile_size", tile_size, "a side, or height and width")
    return tuple(check_int("model.tile_size", side) for side in sides)


def _check_statistics(generator: TileGenerator) -> None:
    """Raise ConfigError if mean and deviation of the latents were not measured."""
    if not generator.feature_std.all():
        raise ConfigError(
            "the mean and deviation of the latents are not known",
            expected="custom_hooks with dict(type='hook.CodeCacheHook'), which measures them",
            found="none of these hooks, and no checkpoint of a trained generator",
            remedy="add the hook, or load a checkpoint",
        )


def _classes(given: int | Sequence[int] | Tensor) -> Tensor:
    with suppress(TypeError, ValueError, RuntimeError):
        labels = torch.as_tensor(given)
        if not labels.is_floating_point() and labels.dtype != torch.bool:
            return labels.long()
    raise ConfigError(
        "the condition is no class",
        expected="whole numbers",
        found=short_repr(given),
        remedy="pass the numbers of classes",
    )
