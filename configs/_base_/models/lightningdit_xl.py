# LightningDiT-XL/1 for ImageNet at 256 pixels over VA-VAE's latents (arXiv:2501.01423). Sampling as
# published for 800 epochs: guidance acts on the first 3 of 32 channels, which the scale makes up
# for. On all channels, HOOK's default, about 4 is enough.
_base_ = ["va_vae_f16d32.py"]
model = dict(
    _delete_=True,
    type="hook.TileGenerator",
    codec=_base_.model,
    network=dict(
        type="hook.LightningDiT",
        embed_dims=1152,
        depth=28,
        num_heads=16,
        sampling=dict(
            points=250, guidance=6.7, guidance_channels=3, guidance_start=0.11, shift=0.3
        ),
    ),
    tile_size=256,
    condition="class",
    num_classes=1000,
)
