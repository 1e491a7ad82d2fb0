"""``hook predict``: classify or segment single images."""

import argparse
import csv
import sys

from hook.cli.options import (
    add_bidx,
    add_model_arguments,
    add_run_options,
    arguments_of,
    model_of,
)
from hook.errors import ConfigError


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "predict",
        help="classify or segment single images",
        description="Classify or segment single images, each as a whole. A classification writes "
        "CSV (file, class, scores), a segmentation one GeoTIFF mask per image.",
    )
    add_model_arguments(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="GeoTIFF, PNG or JPEG")
    parser.add_argument(
        "--out",
        "-o",
        metavar="PATH",
        help="classification: a .csv file (default: standard output); segmentation: a folder, or "
        "a .tif file for one image",
    )
    add_bidx(parser, "image")
    add_run_options(parser, batch_size=8, unit="images")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.engine.models import is_segmentation
    from hook.inference.files import predict_files
    from hook.inference.models import load_model

    model = load_model(model_of(args), device=args.device)
    if is_segmentation(model) and args.out is None:
        raise ConfigError(
            "--out is missing: a segmentation writes masks",
            expected="--out FOLDER, or --out FILE.tif for one image",
            remedy="add --out",
        )
    options = arguments_of(args, predict_files, ("model", "device"))
    predictions = predict_files(model, **options, progress=not args.quiet)
    if args.out is None:
        classes = model.dataset_meta["classes"]
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["file", "class", *(f"score_{name}" for name in classes)])
        for item in predictions:
            writer.writerow([item.file, item.label, *(f"{score:.6f}" for score in item.scores)])
    elif not args.quiet:
        print(f"{len(predictions)} images: {args.out}", file=sys.stderr)
