"""Autoencoders of images: encoders, decoders, losses, and their training."""

from hook.models.autoencoders.discriminators import BlurDiscriminator, PatchDiscriminator
from hook.models.autoencoders.frozen import FrozenBackbone
from hook.models.autoencoders.fusion import AttentionProjection, FusionEncoder
from hook.models.autoencoders.losses import (
    AdversarialLoss,
    AlignmentLoss,
    GramLoss,
    PerceptualLoss,
    PixelLoss,
)
from hook.models.autoencoders.magvit2 import MAGVIT2Decoder, MAGVIT2Encoder
from hook.models.autoencoders.progressive import (
    BlurUpsample,
    NullKeyAttention,
    ProgressiveDecoder,
)
from hook.models.autoencoders.series_autoencoder import SeriesAutoencoder
from hook.models.autoencoders.slots import SlotAutoencoder, SlotDecoder, SlotEncoder
from hook.models.autoencoders.space_time import SpaceTimeDecoder, SpaceTimeEncoder
from hook.models.autoencoders.tile_autoencoder import TileAutoencoder
from hook.models.autoencoders.vqgan import VQGANDecoder, VQGANEncoder

__all__ = [
    "AdversarialLoss",
    "AlignmentLoss",
    "AttentionProjection",
    "BlurDiscriminator",
    "BlurUpsample",
    "FrozenBackbone",
    "FusionEncoder",
    "GramLoss",
    "MAGVIT2Decoder",
    "MAGVIT2Encoder",
    "NullKeyAttention",
    "PatchDiscriminator",
    "PerceptualLoss",
    "PixelLoss",
    "ProgressiveDecoder",
    "SeriesAutoencoder",
    "SlotAutoencoder",
    "SlotDecoder",
    "SlotEncoder",
    "SpaceTimeDecoder",
    "SpaceTimeEncoder",
    "TileAutoencoder",
    "VQGANDecoder",
    "VQGANEncoder",
]
