"""Encoders and decoders between images and latents."""

from hook.models.autoencoders.fusion import AttentionProjection, FusionEncoder
from hook.models.autoencoders.magvit2 import MAGVIT2Decoder, MAGVIT2Encoder
from hook.models.autoencoders.progressive import ProgressiveDecoder
from hook.models.autoencoders.vqgan import VQGANDecoder, VQGANEncoder

__all__ = [
    "AttentionProjection",
    "FusionEncoder",
    "MAGVIT2Decoder",
    "MAGVIT2Encoder",
    "ProgressiveDecoder",
    "VQGANDecoder",
    "VQGANEncoder",
]
