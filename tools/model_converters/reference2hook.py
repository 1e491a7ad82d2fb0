"""Convert an official HOOK checkpoint (GeoX-Lab/Hook) into one of ours.

Keys are renamed, tensors stay as they are. The result loads with ``tools/test.py`` or ``load_from``
in a config of the same sizes.
"""

import argparse
from pathlib import Path

from hook.checkpoint import get_state_dict, load_checkpoint
from hook.errors import reports_errors
from hook.models.converters import reference_to_hook, save_weights


@reports_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", type=Path, help="official checkpoint (.pth or .safetensors)")
    parser.add_argument("output", type=Path, help="file to write (.pth or .safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    args = parser.parse_args()
    weights = reference_to_hook(get_state_dict(load_checkpoint(args.input)))
    save_weights(weights, args.output, overwrite=args.overwrite)
    print(f"{args.output}: {len(weights)} tensors renamed")


if __name__ == "__main__":
    main()
