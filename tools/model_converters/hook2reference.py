"""Convert a checkpoint of this package to the official format (GeoX-Lab/Hook).

Keys are renamed, tensors are unchanged. The model must have official parts only: HOOK or patch
embedding, ViT blocks, and the linear head or the paper's pyramid and decode head.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from hook.checkpoint import get_state_dict, load_checkpoint
from hook.errors import CheckpointError, reports_errors
from hook.geo.staging import check_output
from hook.models.converters import hook_to_reference, save_weights

Weights = dict[str, Tensor]


@reports_errors
def convert(description: str | None, rename: Callable[[Weights], Weights]) -> None:
    """Rename the weights of the input file."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("input", type=Path, help="checkpoint (.pth or .safetensors)")
    parser.add_argument("output", type=Path, help="file to write (.pth or .safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    args = parser.parse_args()
    check_output(args.output, [args.input], CheckpointError)
    weights = rename(get_state_dict(load_checkpoint(args.input)))
    save_weights(weights, args.output, overwrite=args.overwrite)
    print(f"{args.output}: {len(weights)} tensors renamed")


if __name__ == "__main__":
    convert(__doc__, hook_to_reference)
