"""``hook encode``: a scene as codes."""

import argparse

from hook.cli.options import (
    add_bidx,
    add_coding_options,
    add_model_arguments,
    add_nodata,
    add_scene_arguments,
    entropy_of,
    not_negative,
    run_on_scene,
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "encode",
        help="code a whole scene",
        description="Code a georeferenced scene of any size with an autoencoder. OUTPUT is a "
        "Cloud-Optimised GeoTIFF of codes with all that 'hook decode' needs but the model.",
    )
    add_model_arguments(parser)
    add_scene_arguments(parser, "codes to write, .tif")
    add_bidx(parser, "scene")
    add_nodata(parser)
    parser.add_argument(
        "--dates",
        type=lambda text: [date.strip() for date in text.split(",")],
        metavar="DATE,...",
        help="of a time series, for a model of series: INPUT is a file with the bands of one date "
        "after those of another, or a file for each date (default: the dates in JSON files beside, "
        "descriptions, tags or names)",
    )
    parser.add_argument(
        "--max-error",
        type=not_negative,
        metavar="VALUE",
        help="write nothing if the root mean square error of a band is larger, in the units of the "
        "scene's values",
    )
    parser.add_argument(
        "--no-errors",
        dest="errors",
        action="store_false",
        help="do not decode what was coded to measure errors, which takes longer than coding",
    )
    parser.add_argument(
        "--entropy",
        nargs="?",
        const=True,
        default=False,
        metavar="MODEL",
        help="pack the codes, in a file .hkc that GDAL does not read: by their frequencies, or "
        "with the probabilities of a generator, which takes longer: a name from 'hook models "
        "list', a published .safetensors file, or a config with --entropy-checkpoint",
    )
    parser.add_argument(
        "--entropy-checkpoint", metavar="FILE", help="checkpoint of a config in --entropy"
    )
    add_coding_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.coding import SceneEncoder
    from hook.scenes.request import EncodingRequest

    args.entropy = entropy_of(args)
    run_on_scene(args, SceneEncoder, EncodingRequest)
