"""Encoders and decoders between images and latents."""

from hook.models.autoencoders.fusion import AttentionProjection, FusionEncoder
from hook.models.autoencoders.magvit2 import MAGVIT2Decoder, MAGVIT2Encoder
from hook.models.autoencoders.progressive import (
    BlurUpsample,
    NullKeyAttention,
    ProgressiveDecoder,
)
from hook.models.autoencoders.vqgan import VQGANDecoder, VQGANEncoder

__all__ = [
    "AttentionProjection",
    "BlurUpsample",
    "FusionEncoder",
    "MAGVIT2Decoder",
    "MAGVIT2Encoder",
    "NullKeyAttention",
    "ProgressiveDecoder",
    "VQGANDecoder",
    "VQGANEncoder",
]
