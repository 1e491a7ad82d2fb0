"""Prepare a checkpoint for publication: weights and meta only, the digest in its name."""

import argparse
import hashlib
import io
import os
from pathlib import Path

import torch

from hook.checkpoint import get_state_dict, load_checkpoint
from hook.errors import ConfigError, reports_errors

_KEPT_META = ("dataset_meta", "cfg", "epoch", "iter", "seed", "mmengine_version")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="checkpoint of a training run")
    parser.add_argument("out", help="name; the file will be <name>-<8 digits of sha256>.pth")
    return parser.parse_args()


def publish(checkpoint: str, out: str) -> Path:
    """Write the published form of a checkpoint.

    Args:
        checkpoint: Checkpoint of a training run.
        out: Name, with or without ``.pth``.

    Returns:
        The file written; the end of its name starts the sha256 of its bytes.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ConfigError: The folder of ``out`` does not exist.
    """
    content = load_checkpoint(checkpoint)
    meta = content.get("meta") or {}
    kept = {
        "meta": {key: meta[key] for key in _KEPT_META if key in meta},
        "state_dict": {k: v.cpu().clone() for k, v in get_state_dict(content).items()},
    }
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    name = Path(out).with_suffix("") if out.endswith(".pth") else Path(out)
    target = name.with_name(f"{name.name}-{digest[:8]}.pth")
    if not target.parent.is_dir():
        raise ConfigError(f"folder {target.parent} does not exist", remedy="make it first")
    partial = target.with_name(f".{target.name}.partial")
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, target)
    return target


@reports_errors
def main() -> None:
    args = parse_args()
    print(publish(args.checkpoint, args.out))


if __name__ == "__main__":
    main()
