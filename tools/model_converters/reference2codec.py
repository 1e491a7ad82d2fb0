"""Convert an official checkpoint of a codec to the weights of a TileAutoencoder.

Codecs are Open-MAGVIT2, IBQ, RQ-VAE, VA-VAE and AToken. Keys are renamed, tensors are unchanged;
the weights of the official losses are left out. Load the result with ``tools/test.py`` or
``load_from`` in a config of the same sizes.
"""

from hook2reference import Weights, convert

from hook.models.converters import reference_to_codec, reference_to_space_time


def without_losses(state: Weights) -> Weights:
    """Rename the weights of encoder, quantizer and decoder."""
    if "encoder.input_layer.weight" in state:
        return reference_to_space_time(state)
    losses = ("loss.", "foundation_model.", "linear_proj.")
    return reference_to_codec({k: v for k, v in state.items() if not k.startswith(losses)})


if __name__ == "__main__":
    convert(__doc__, without_losses)
