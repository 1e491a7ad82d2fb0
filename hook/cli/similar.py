"""``hook similar``: find similar regions."""

import argparse
import functools
import sys

from hook.cli.options import (
    LAYER_HELP,
    add_bidx,
    add_model_option,
    arguments_of,
    positive_int,
    row_number,
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "similar",
        help="find similar regions",
        description="Find the regions whose embeddings have the largest cosine similarity to a "
        "region, a point, an area or a chip. OUTPUT is GeoPackage (.gpkg) or GeoParquet "
        "(.parquet), which can be searched again, FlatGeobuf (.fgb) or GeoJSON (.geojson, .json; "
        "in WGS 84), with the fields of REGIONS, region_id (the row of REGIONS, from 0) and "
        "similarity, sorted by similarity.",
    )
    parser.add_argument(
        "regions", metavar="REGIONS", help="file that 'hook regions' wrote, .parquet or .gpkg"
    )
    parser.add_argument("output", metavar="OUTPUT", help="vector file to write")
    queries = parser.add_mutually_exclusive_group(required=True)
    queries.add_argument(
        "--at", nargs=2, type=float, metavar=("X", "Y"), help="similar to the region at this point"
    )
    queries.add_argument(
        "--id", type=row_number, metavar="N", help="similar to this region: its row, from 0"
    )
    queries.add_argument(
        "--polygon",
        metavar="FILE",
        help="similar to the polygons of this vector file: the mean of the regions they overlap, "
        f"weighted by area; {LAYER_HELP}",
    )
    queries.add_argument(
        "--chip",
        nargs=3,
        metavar=("FILE", "CONFIG", "CHECKPOINT"),
        help="similar to this image, embedded by the model of the regions: the mean of its tokens, "
        "weighted by pixels; with --model, --chip FILE",
    )
    add_model_option(parser, "of --chip")
    parser.add_argument(
        "--crs", metavar="CRS", help="CRS of --at, such as EPSG:4326 (default: CRS of REGIONS)"
    )
    parser.add_argument(
        "--token", type=row_number, metavar="N", help="of --chip: only this token, from 0"
    )
    parser.add_argument(
        "--embedding",
        choices=("tokens", "seeds"),
        default="tokens",
        help="of --chip: embedding of REGIONS (default: tokens)",
    )
    add_bidx(parser, "image of --chip")
    parser.add_argument(
        "-k", type=positive_int, default=50, metavar="N", help="regions to find (default 50)"
    )
    parser.add_argument(
        "--keep-query", action="store_true", help="keep the regions of the query in the result"
    )
    parser.add_argument(
        "--layer", default="similar", metavar="NAME", help="name of the layer (default: similar)"
    )
    parser.add_argument(
        "--device", default="cpu", help="for --chip: cpu (default), cuda, cuda:1, ..."
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--quiet", "-q", action="store_true", help="no summary")
    parser.set_defaults(run=functools.partial(run, parser))


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    from hook.apis.search import find_similar

    if args.crs is not None and args.at is None:
        parser.error("--crs is for --at only; files have a CRS")
    if args.token is not None and args.chip is None:
        parser.error("--token is for --chip only")
    for name in ("model", "bidx"):
        if getattr(args, name) is not None and args.chip is None:
            parser.error(f"--{name} is for --chip only")
    chip, *pair = args.chip or (None,)
    found = find_similar(
        **arguments_of(args, find_similar, ("chip", "model")),
        chip=chip,
        model=tuple(pair) or args.model,
        approximate_above=None,  # building an index would take longer than this one search
    )
    if not args.quiet:
        minimum = f", similarity from {found.similarity.min():.4f}" if len(found) else ""
        print(f"{args.output}: {len(found)} regions{minimum}", file=sys.stderr)
