"""Autoencoder of slots: a code or latent of each token, and images from tokens alone."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.structures import BaseDataElement
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hook.errors import ConfigError, DataError
from hook.models.autoencoders.losses import CodecPass
from hook.models.autoencoders.tile_autoencoder import TileAutoencoder, quantize
from hook.models.parts import build_part
from hook.models.token_model import collect_facts
from hook.quantizers import Quantized
from hook.registry import MODELS, TOKENIZERS
from hook.structures import CodecDataSample
from hook.tokenizers import ImageFacts, TokenizerOutput
from hook.tokenizers.positions import Fourier2d
from hook.tokenizers.slots import SlotAttention

MIXINGS = ("position", "cross", "ids")
_WAVES = 6  # of the positions of cells: 16 pixels to 4 to the power of 5 times as many


class SlotBlocks(nn.Module):
    """Pre-norm transformer blocks among slots, as of Slot-MLLM's decoder.

    Args:
        num_slots: Largest number of slots, with a learned position each; None: no positions, for
            tokens in no order.
        dims: Width of the slots.
        depth: Number of blocks.
        num_heads: Attention heads.

    Reference:
        Chi et al., "Slot-MLLM", 2025, arXiv:2505.17726.
    """

    def __init__(self, num_slots: int | None, dims: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.positions = None
        if num_slots is not None:
            self.positions = nn.Parameter(torch.randn(num_slots, dims) * 0.02)
        self.blocks = nn.ModuleList(Block(dims, num_heads, qkv_bias=True) for _ in range(depth))

    def forward(self, slots: Tensor, known: Tensor | None = None, causal: bool = False) -> Tensor:
        """Map slots (B, N, D) to (B, N, D).

        Args:
            slots: The slots.
            known: (B, N) bool, slots to attend to; None: all.
            causal: A slot attends to itself and those before it.
        """
        if self.positions is not None:
            slots = slots + self.positions[: slots.shape[1]]
        mask = None if known is None else known[:, None, None]
        for block in self.blocks:
            slots = block(slots, attn_mask=mask, is_causal=causal)
        return slots


@MODELS.register_module()
class SlotEncoder(BaseModule):
    """A tokenizer and a projection of its tokens to latents.

    Args:
        tokenizer: Config of a ``hook.HookTokenizer`` without a class token.
        out_channels: Channels of the latents.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: It is another tokenizer, or has a class token.
    """

    def __init__(self, tokenizer: dict, out_channels: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.tokenizer = build_part(TOKENIZERS, dict(tokenizer), "model.encoder.tokenizer")
        if self.tokenizer.with_cls_token or not hasattr(self.tokenizer, "perceive"):
            raise ConfigError(
                "model.encoder.tokenizer: its tokens cannot be slots",
                expected="hook.HookTokenizer, without a class token, which is no part of an image",
                found=f"{type(self.tokenizer).__name__}, "
                f"with_cls_token={self.tokenizer.with_cls_token}",
                remedy="choose another tokenizer, or leave the class token out",
            )
        if not self.tokenizer.takes_valid:
            raise ConfigError(
                "model.encoder.tokenizer: its slots would be of pixels without data, too",
                expected="hook.HookTokenizer with preset 'fast' or 'objects'",
                found=f"preset {self.tokenizer.preset!r}",
                remedy="set preset='fast'",
            )
        self.proj = nn.Linear(self.tokenizer.embed_dims, out_channels)
        self.in_channels, self.out_channels = self.tokenizer.in_channels, out_channels
        self.stride = self.tokenizer.stride

    @property
    def last_layer(self) -> Tensor:
        """Weights at which adaptive weights compare gradients."""
        return self.proj.weight

    def forward(
        self, images: Tensor, facts: ImageFacts | None = None
    ) -> tuple[Tensor, TokenizerOutput]:
        """Encode images (B, C, H, W) as latents (B, N, D)."""
        facts = (facts or ImageFacts()).accepted_by(self.tokenizer)
        output = self.tokenizer(images, facts=facts)
        return self.proj(output.tokens), output


@MODELS.register_module()
class SlotDecoder(BaseModule):
    """Images from slots: blocks among the slots, and cells that read from them.

    Args:
        in_channels: Channels of the latents.
        out_channels: Number of bands.
        embed_dims: Width of slots and cells.
        depth: Number of blocks among the slots.
        num_heads: Attention heads.
        mixing: ``"position"``: a cell is the mean of the slots weighted by how well they fit its
            place (slot mixer); ``"cross"``: cross-attention of the cells' places to the slots, and
            feed-forward layers, ``mix_depth`` times; ``"ids"``: a cell is its own slot, for which
            the map of tokens must be known.
        mix_depth: Number of layers of ``"cross"``.
        num_slots: See :class:`SlotBlocks`; ``mixing="ids"`` needs none.
        stride: Side of a cell in pixels.
        feature_pool: Cells along a side whose features are averaged, for losses that compare them
            with coarser features.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: ``mixing`` is unknown.

    Reference:
        Sajjadi et al., "Object scene representation transformer", NeurIPS 2022, arXiv:2206.06922
        (slot mixer); Singh et al., "Illiterate DALL-E learns to compose", ICLR 2022,
        arXiv:2110.11405 (cross-attention to slots).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embed_dims: int = 128,
        depth: int = 2,
        num_heads: int = 4,
        mixing: str = "cross",
        mix_depth: int = 2,
        num_slots: int | None = None,
        stride: int = 4,
        feature_pool: int = 1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if mixing not in MIXINGS:
            raise ConfigError(
                "model.decoder.mixing is unknown",
                expected=" or ".join(map(repr, MIXINGS)),
                found=repr(mixing),
                remedy="choose one of them",
            )
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.embed_dims, self.mixing, self.feature_pool = embed_dims, mixing, feature_pool
        self.embed = nn.Linear(in_channels, embed_dims)
        self.slots = SlotBlocks(num_slots, embed_dims, depth, num_heads)
        self.fourier = Fourier2d(_WAVES)
        self.place = nn.Linear(self.fourier.dims, embed_dims)
        if mixing == "position":
            self.query, self.key = (nn.Linear(embed_dims, embed_dims) for _ in range(2))
        count = mix_depth if mixing == "cross" else 0
        self.reads = nn.ModuleList(
            SlotAttention(embed_dims, embed_dims, num_heads, "plain") for _ in range(count)
        )
        self.mlps = nn.ModuleList(_mlp(embed_dims, embed_dims) for _ in range(max(count, 1)))
        self.out = _mlp(embed_dims, out_channels * stride**2)

    @property
    def last_layer(self) -> Tensor:
        """Weights at which adaptive weights compare gradients."""
        return self.out[-1].weight

    def forward(
        self,
        latents: Tensor,
        size: Sequence[int],
        known: Tensor | None = None,
        token_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode slots.

        Args:
            latents: (B, N, D).
            size: Height and width of the images, multiples of the stride.
            known: (B, N) bool, slots that stand for something; None: all.
            token_ids: (B, h, w) slot of each cell, -1 for none, for ``mixing="ids"``.

        Returns:
            Images (B, C, H, W); features of the cells (B, E, h, w), averaged by ``feature_pool``;
            weights (B, N, h, w) of the slots in each cell, which sum to one.
        """
        slots = self.slots(self.embed(latents), known)
        grid = [side // self.stride for side in size]
        rows, columns = (torch.arange(n, device=slots.device) + 0.5 for n in grid)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1) * self.stride
        x = self.place(self.fourier(places.flatten(0, 1)))
        x = x.expand(len(slots), -1, -1)  # B S E
        if self.mixing == "ids":
            number = token_ids.flatten(1)
            weights = F.one_hot(number.clamp(min=0), slots.shape[1]).to(slots)
            x = x + weights @ slots * (number >= 0)[..., None]
        elif self.mixing == "position":
            scores = self.query(x) @ self.key(slots).mT * self.embed_dims**-0.5
            if known is not None:
                scores = scores.masked_fill(~known[:, None], float("-inf"))
            weights = scores.softmax(dim=-1)
            x = x + weights @ slots
        for number, mlp in enumerate(self.mlps):
            if self.reads:
                reading = self.reads[number](x, slots, known)
                x, weights = reading.slots, reading.weights.mean(dim=1)
            x = x + mlp(x)
        cells, images = (part.mT.unflatten(2, grid) for part in (x, self.out(x)))
        cells = F.avg_pool2d(cells, self.feature_pool, ceil_mode=True)
        return F.pixel_shuffle(images, self.stride), cells, weights.mT.unflatten(2, grid)


def _mlp(dims: int, out_dims: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dims), nn.Linear(dims, 2 * dims), nn.GELU(), nn.Linear(2 * dims, out_dims)
    )


@MODELS.register_module()
class SlotAutoencoder(TileAutoencoder):
    """Images to a latent or code for each token, and back from these alone.

    So tokens become objects without labels: what is to be told by few of them must be alike. An
    ``AlignmentLoss`` compares the features of the decoder's cells with those of a frozen network.
    Regions of the preset ``"objects"`` without a cell, in images of few seeds, have no code.

    Options are those of :class:`TileAutoencoder`, with a :class:`SlotEncoder` and a
    :class:`SlotDecoder`, and without equivariance.

    Raises:
        ConfigError: The parts do not fit each other.
    """

    def _check_parts(self) -> None:
        self._check_kinds(SlotEncoder, SlotDecoder, others=[self.equivariance])
        super()._check_parts()
        positions = self.decoder.slots.positions
        most = self.encoder.tokenizer.max_tokens
        if positions is not None and len(positions) < most:
            raise ConfigError(
                "model.decoder.num_slots are fewer than the tokens",
                expected=f"at least {most}, or None: no positions",
                found=len(positions),
                remedy="set num_slots to the tokenizer's number of tokens, or leave it out",
            )

    @property
    def _feature_width(self) -> int:
        return self.decoder.embed_dims

    # ------------------------------------------------------------------------------ codes
    def encode_slots(
        self, images: Tensor, facts: ImageFacts | None = None
    ) -> tuple[Quantized, Tensor, Tensor]:
        """Encode images.

        Args:
            images: (B, C, H, W) in model units, of whole cells.
            facts: Their valid pixels (B, H, W), and resolution, which the tokenizer may take.

        Returns:
            Latents (B, N, D), codes (B, N, Q) and losses; (B, h, w) int64 token of each cell, -1
            where there is no data; and (B, N) bool, which tokens stand for something: of regions,
            those that have a cell; of an image without data none.
        """
        latents, output = self.encoder(images, facts)
        valid = None if facts is None else facts.valid
        ids = output.token_map()
        if valid is not None:
            cells = F.max_pool2d(valid[:, None].float(), self.stride)[:, 0] > 0
            ids = ids.masked_fill(~cells, -1)
        known = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        if self.encoder.tokenizer.group is not None:  # regions
            numbers = torch.arange(latents.shape[1], device=ids.device)[:, None]
            known = (ids.flatten(1)[:, None] == numbers).any(dim=2)
        if valid is not None:
            known = known & valid.flatten(1).any(dim=1, keepdim=True)
        return quantize(self.quantizer, latents, known), ids, known

    def encode(self, images: Tensor, facts: ImageFacts | None = None) -> Quantized:
        """Encode images (B, C, H, W); slots have no ``grid``, with ``mixing="ids"`` ``token_ids``.

        Raises:
            DataError: An image has fewer regions than the tokenizer has tokens, so that
                :meth:`decode` would take slots for regions that stand for nothing.
        """
        facts = facts or ImageFacts()
        images, valid = self._pad(images, facts.valid)
        quantized, ids, known = self.encode_slots(images, replace(facts, valid=valid))
        if not known.all():
            raise DataError(
                "an image has fewer regions than slots",
                expected=f"{known.shape[1]} regions with a valid pixel",
                found=int(known.sum(dim=1).min()),
                remedy="call predict, which leaves slots without a region out, or set fewer tokens",
            )
        if self.decoder.mixing == "ids":
            quantized.token_ids = ids
        return quantized

    def decode(
        self, latents: Tensor, grid: None, size: Sequence[int], token_ids: Tensor | None = None
    ) -> Tensor:
        """Decode slots (B, N, D), which have no grid, to images (B, C, *size) in model units.

        Raises:
            ConfigError: The decoder needs the map of tokens, and ``token_ids`` is None.
        """
        if self.decoder.mixing == "ids" and token_ids is None:
            raise ConfigError(
                "model.decoder: mixing='ids' decodes slots with the map of tokens only",
                expected="token_ids",
                found="None",
                remedy="pass the token_ids of encode, or train with mixing='position' or 'cross'",
            )
        whole = [side + -side % self.stride for side in size]
        decoded = self.decoder(latents, whole, token_ids=token_ids)[0]
        return decoded.float()[..., : size[0], : size[1]]

    def run(
        self, images: Tensor, valid: Tensor | None = None, stored: Sequence[Tensor] | None = None
    ) -> CodecPass:
        """Encode and decode images for the losses; see :class:`TileAutoencoder`."""
        return self._run_slots(images, ImageFacts(valid), stored)[0]

    def _run(self, inputs: Tensor, samples: Sequence[BaseDataElement] | None) -> CodecPass:
        stored = self._stored(inputs, samples)
        return self._run_slots(inputs, self._facts(inputs, samples), stored)[0]

    def _facts(self, inputs: Tensor, samples: Sequence[BaseDataElement] | None) -> ImageFacts:
        return collect_facts(self.encoder.tokenizer, inputs, samples)

    def _run_slots(
        self, images: Tensor, facts: ImageFacts, stored: Sequence[Tensor] | None = None
    ) -> tuple[CodecPass, Tensor, Tensor]:
        self.build_frozen()
        images, valid = self._pad(images, facts.valid)
        quantized, ids, known = self.encode_slots(images, replace(facts, valid=valid))
        # Attention is faster without a mask, and needs a slot, of an image without data, too.
        seen = None if known.all() else known | ~known.any(dim=1, keepdim=True)
        decoded, cells, _ = self.decoder(quantized.latents, images.shape[-2:], seen, ids)
        decoded = decoded.float()
        if valid is not None:
            decoded = decoded.where(valid[:, None], images)
        parts = images, decoded, quantized, cells, images, valid, valid, self.frozen
        return CodecPass(*parts, stored=stored), ids, known

    # ------------------------------------------------------------------------------ inference
    def _forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> Tensor:
        """Return reconstructions (B, C, H, W) in model units."""
        passed, _, _ = self._run_slots(inputs, self._facts(inputs, data_samples))
        height, width = inputs.shape[-2:]
        return passed.reconstruction[..., :height, :width]

    def predict(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> list[CodecDataSample]:
        """Encode and decode images; see :class:`TileAutoencoder`.

        Returns:
            Samples with image and reconstruction, ``latents`` (D, N, 1) and any ``codes``
            (1, n, Q) of the n slots, and ``token_ids`` (h, w), the slot of each cell.
        """
        facts = self._facts(inputs, data_samples)
        passed, ids, known = self._run_slots(inputs, facts)
        height, width = inputs.shape[-2:]
        decoded, indices = passed.reconstruction[..., :height, :width], passed.quantized.indices
        samples = self._new_samples(inputs, decoded, facts.valid, data_samples)
        for row, sample in enumerate(samples):
            sample.latents = passed.quantized.latents[row].mT[..., None]
            sample.token_ids = ids[row]
            if indices is not None:
                sample.codes = indices[row][known[row]][None]
        return samples
