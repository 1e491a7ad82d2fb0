"""``hook export``: export a model to ONNX."""

import argparse
import sys

from hook.cli.options import add_model_arguments, model_of, positive_int


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "export",
        help="export a model to ONNX, for QGIS and other programs",
        description="Export a segmentation or classification to an ONNX file and compare it with "
        "PyTorch. Input: images (B, C, H, W) of raster values divided by 255. Output: class "
        "probabilities; normalisation is included. The QGIS plugin Deepness reads segmentations "
        "with all their settings. Needs pip install 'hook-rs[export]'.",
    )
    add_model_arguments(parser)
    parser.add_argument("output", metavar="OUT.onnx", help="file to write")
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="PIXELS",
        help="side of the images (default: the model's input size)",
    )
    parser.add_argument(
        "--num-tokens",
        type=positive_int,
        metavar="N",
        help="tokens per image, for a HOOK model (default: the config's)",
    )
    parser.add_argument(
        "--opset",
        type=positive_int,
        metavar="N",
        help="version of ONNX's operators (default: 18, the oldest possible)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--quiet", "-q", action="store_true", help="no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.inference.export import DEFAULT_OPSET, export_onnx

    report = export_onnx(
        model_of(args),
        args.output,
        window=args.window,
        num_tokens=args.num_tokens,
        opset=args.opset or DEFAULT_OPSET,
        overwrite=args.overwrite,
    )
    if not args.quiet:
        print(
            f"{args.output}: images of {report.num_bands} bands, {report.window} x "
            f"{report.window} pixels, {report.size / 1e6:.1f} MB, at most "
            f"{report.difference:.1e} from PyTorch's probabilities",
            file=sys.stderr,
        )
