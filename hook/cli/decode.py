"""``hook decode``: a scene from its codes."""

import argparse

from hook.cli.options import add_coding_options, arguments_of, entropy_of, print_report


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "decode",
        help="decode the codes of a scene",
        description="Decode the codes of a scene, or of a part of it. OUTPUT is a Cloud-Optimised "
        "GeoTIFF with the size, CRS, type, nodata value and band names of the scene.",
    )
    parser.add_argument("codes", metavar="CODES", help="file of 'hook encode'")
    parser.add_argument("output", metavar="OUTPUT", help="scene to write, .tif")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="model of the codes: a name from 'hook models list', a published .safetensors file, "
        "or a config with --checkpoint (default: the published model that the codes name)",
    )
    parser.add_argument(
        "--checkpoint", dest="weights", metavar="FILE", help="checkpoint of a config in --model"
    )
    parser.add_argument(
        "--entropy",
        metavar="MODEL",
        help="the generator that packed the codes, as for 'hook encode' (default: the published "
        "one that the codes name); without --model, the model of the codes is its autoencoder",
    )
    parser.add_argument(
        "--entropy-checkpoint", metavar="FILE", help="checkpoint of a config in --entropy"
    )
    add_coding_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis import decode
    from hook.scenes.request import CodingRequest

    options = arguments_of(args, CodingRequest, ("input", "output")) | {"progress": not args.quiet}
    model = args.model if args.weights is None else (args.model, args.weights)
    own = dict(model=model, entropy=entropy_of(args), device=args.device, threads=args.threads)
    print_report(args, decode(args.codes, args.output, **own, **options))
