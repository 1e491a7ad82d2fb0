"""Train a model: ``python tools/train.py CONFIG``."""

import argparse

from hook.engine.runner import (
    add_common_options,
    build_runner,
    prepare,
    set_amp,
    set_auto_scale_lr,
    set_resume,
)
from hook.errors import reports_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a model.")
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="resume from the newest checkpoint of the work dir, or from CHECKPOINT",
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the batch size over all processes",
    )
    add_common_options(parser)
    return parser.parse_args()


@reports_errors
def main() -> None:
    args = parse_args()
    cfg = prepare(args)
    set_amp(cfg, args.amp)
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg)
    set_resume(cfg, args.resume)
    build_runner(cfg).train()


if __name__ == "__main__":
    main()
