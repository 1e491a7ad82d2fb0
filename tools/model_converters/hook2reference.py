"""Convert one of our checkpoints into the official form (GeoX-Lab/Hook).

Keys are renamed, tensors stay as they are. Only models of official parts have names there: HOOK or
patch embedding, ViT blocks, and the linear head or the paper's pyramid and decode head.
"""

import argparse
from pathlib import Path

from hook.checkpoint import get_state_dict, load_checkpoint
from hook.errors import reports_errors
from hook.models.converters import hook_to_reference, save_weights


@reports_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", type=Path, help="checkpoint (.pth or .safetensors)")
    parser.add_argument("output", type=Path, help="file to write (.pth or .safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    args = parser.parse_args()
    weights = hook_to_reference(get_state_dict(load_checkpoint(args.input)))
    save_weights(weights, args.output, overwrite=args.overwrite)
    print(f"{args.output}: {len(weights)} tensors renamed")


if __name__ == "__main__":
    main()
