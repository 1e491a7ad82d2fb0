"""Quantities of AToken's packing, positions and autoencoder; see ``codec_references.py``."""

import math

import torch
from codec_references import Golden, build, covers, official_gradients, refuse_rest
from torch import Tensor

from hook.models.converters import reference_to_space_time
from hook.models.parts import build_part
from hook.registry import MODELS, QUANTIZERS, TOKENIZERS
from hook.tokenizers import Packed, SpaceTimeTokenizer, join_samples
from hook.tokenizers.packing import resize_into, unpack_patches

REMARKS = ("system", "part", "source", "note", "attention")


def options_of(file: Golden) -> dict:
    """Return the file's options without remarks about it."""
    return {key: value for key, value in file.config.items() if key not in REMARKS}


def tokenizer(**options) -> SpaceTimeTokenizer:
    """Build a tokenizer with official positions."""
    config = dict(type="hook.SpaceTimeTokenizer", positions="index", **options)
    return build_part(TOKENIZERS, config, "tokenizer")


def series(file: Golden) -> list[Tensor]:
    """Return the images of a file, (T, H, W, C) each, as series (1, T, C, H, W)."""
    count = sum(name.startswith("image_") for name in file.io)
    return [file.io[f"image_{i}"].permute(0, 3, 1, 2)[None] for i in range(count)]


def coordinates(packed: Packed) -> Tensor:
    """Return sample, time step, row, column and 0 of each patch."""
    return torch.cat([packed.samples[:, None], packed.places], dim=1)


@covers("atoken_rope", inputs=("positions", "q", "k"))
def check_rotary(file: Golden) -> dict[str, Tensor]:
    config = options_of(file)
    dims = config.pop("head_dim")
    refuse_rest(config)
    heads = file.io["q"].shape[1]
    rotary = tokenizer(embed_dims=heads * dims, num_heads=heads, depth=0).blocks.rotary
    table = rotary.table(file.io["positions"], file.io["q"].dtype)
    q, k = (rotary.rotate(file.io[name], table) for name in "qk")
    scores = torch.einsum("qhd,khd->hqk", q, k)
    ours = dict(frequencies=rotary.frequencies[0], q_rotated=q, k_rotated=k)
    return ours | dict(relative_scores=scores)


@covers("atoken_packing", inputs=("image_*",))
def check_packing(file: Golden) -> dict[str, Tensor]:
    config = options_of(file)
    patch, sizes = tuple(config.pop("patch_size")), config.pop("sizes")
    refuse_rest(config)
    images = series(file)
    if [[x.shape[1], *x.shape[3:]] for x in images] != sizes:
        raise ValueError(f"the images have not the sizes {sizes}")
    packs = [tokenizer(patch_size=patch, depth=0).patches(x, None)[0] for x in images]
    packed = join_samples(packs)
    ours = dict(packed_coords=coordinates(packed), lengths=torch.tensor(packed.counts))
    for i, (one, image, back) in enumerate(
        zip(packs, images, unpack_patches(packed, patch), strict=True)
    ):
        ours |= {f"feats_{i}": one.values, f"coords_{i}": one.places}
        ours[f"unpacked_{i}"] = back[: image.shape[1]]
    return ours


@covers("atoken_preprocess", inputs=("image_*",))
def check_preprocessing(file: Golden) -> dict[str, Tensor]:
    config, ours = options_of(file), {}
    patch = tuple(config.pop("patch_size"))
    limits = config.pop("min_resolution"), config.pop("max_resolution")
    if [config.pop("size_factor")] * 2 != list(patch[1:]):
        raise ValueError("size_factor must be the side of a patch")
    refuse_rest(config)
    for name, image in file.io.items():
        if name.startswith("image_"):
            i = name.removeprefix("image_")
            image = resize_into(image.permute(2, 0, 1)[None].float(), *limits) / 127.5 - 1
            (one,) = tokenizer(patch_size=patch, depth=0).patches(image, None)
            whole = file.io[f"feats_tail_{i}"].shape[0]
            ours[f"coords_{i}"] = one.places
            ours[f"feats_{i}"] = one.values[:, : file.io[f"feats_{i}"].shape[1]]
            ours[f"feats_tail_{i}"] = one.values[:whole]
    return ours


def network_options(config: dict, part: str, table: int) -> dict:
    """Take the options of the encoder or the decoder, under our names."""
    if config.pop(f"{part}_attn_mode") != "full":
        raise ValueError("attn_mode must be 'full'")
    names = dict(embed_dims="model_channels", depth="num_blocks", num_heads="num_heads")
    names |= dict(mlp_dims="mlp_channels", qk_norm="qk_rms_norm", bias="use_bias")
    names |= dict(rms_norm="use_rms_norm")
    options = {ours: config.pop(f"{part}_{name}") for ours, name in names.items()}
    mode = config.pop(f"{part}_pe_mode")
    if mode not in ("joint", "ape", "rope"):
        raise ValueError(f"pe_mode {mode!r} is unknown")
    options |= dict(rotary=mode != "ape", positions="index")
    return options | dict(table_size=0 if mode == "rope" else table)


@covers("atoken_autoencoder", inputs=("image_*", "noise", "cotangent"))
def check_autoencoder(file: Golden) -> dict[str, Tensor]:
    config = options_of(file)
    config = config.pop("config") | config
    table = math.isqrt(config.pop("position_table", 0))
    patch, width = tuple(config.pop("patch_size")), config.pop("latent_channels")
    parts = {part: network_options(config, part, table) for part in ("encoder", "decoder")}
    bands, rest = divmod(config.pop("in_channels"), math.prod(patch))
    if rest or config.pop("out_channels") != bands * math.prod(patch):
        raise ValueError("in_channels and out_channels must be the values of a patch")
    if not config.pop("use_decoder"):
        raise ValueError("use_decoder must be true")
    gaussian = dict(type="GaussianQuantizer", embed_dims=width, logvar_range=None)
    quantizer = gaussian
    official = {key: config.pop(key) for key in list(config) if key.startswith("quantizer_")}
    if coded := config.pop("use_quantizer", False):
        kind, groups = (official.pop(f"quantizer_{name}") for name in ("type", "num_codebooks"))
        size, chunk = (
            official.pop(f"quantizer_{name}") for name in ("codebook_size", "chunk_size")
        )
        depth = round(math.log(size, 4))  # channels of 4 levels
        if kind != "fsq" or chunk != 1 or 4**depth != size:
            raise ValueError(f"a quantizer {kind} of {size} codes in chunks of {chunk} is unknown")
        quantizer = dict(type="FiniteScalarQuantizer", levels=[4] * depth, groups=groups)
        quantizer["embed_dims"] = official.pop("quantizer_feature_dim")
        refuse_rest(official)
    refuse_rest(config)
    model = build(
        MODELS,
        file.state,
        reference_to_space_time,
        type="hook.TileAutoencoder",
        encoder=dict(
            type="hook.SpaceTimeEncoder",
            tokenizer=parts["encoder"] | dict(in_channels=bands, patch_size=patch, pooling=True),
            out_channels=width if coded else 2 * width,
            proj_channels=2 * width,
        ),
        quantizer=quantizer,
        decoder=parts["decoder"]
        | dict(type="hook.SpaceTimeDecoder", in_channels=width, out_channels=bands)
        | dict(patch_size=patch),
    ).eval()
    encoder, images = model.encoder, series(file)
    patches = join_samples([encoder.tokenizer.patches(x, None)[0] for x in images])
    embedded = join_samples([encoder.tokenizer.embed(x) for x in images])
    encoded = encoder.tokenizer.encode(embedded)
    moments = encoder.proj(encoded.values)
    normal = build(QUANTIZERS, {}, **gaussian)
    mean, logvar = normal.moments(moments)
    latents = sample = normal.sample(mean, logvar, file.io["noise"])
    ours = dict(packed=patches.values, coords=coordinates(patches), moments=moments)
    ours |= dict(encoder_features=encoded.values, pooled_normalised=encoder.tokenizer.pool(encoded))
    ours |= dict(sample=sample, kl_per_token=normal.divergence(mean, logvar).sum(dim=-1))
    if coded:
        quantized = model.quantizer(mean[None])
        latents = quantized.latents[0]
        ours |= dict(quantized=latents, indices=quantized.indices[0])
    (decoded,) = model.decoder.decode(encoded.with_values(latents))
    for i, back in enumerate(unpack_patches(decoded, patch)):
        ours[f"reconstruction_{i}"] = back[: images[i].shape[1]]
    scalar = (decoded.values * file.io["cotangent"]).mean()
    ours |= dict(decoded=decoded.values, scalar=scalar)
    return ours | official_gradients(file, model, scalar, reference_to_space_time)
