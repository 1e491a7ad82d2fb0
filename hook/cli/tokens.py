"""``hook tokens``: draw the tokens of an image."""

import argparse
import sys

from hook.cli.options import add_bidx, add_model_arguments, model_of, option_type, positive_int
from hook.errors import ConfigError

counts = option_type(
    lambda text: [int(part) for part in text.split(",")],
    lambda counts: min(counts) >= 1,
    "a list of integers such as 2,4,8,16",
)
token = option_type(
    int,
    lambda number: number >= 0,
    "a token id, from 0; without an id add --at ROW COL, a pixel of the token, and put --attention "
    "last",
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "tokens",
        help="draw the tokens of an image",
        description="Draw the tokens of an image: the image, the outlined and numbered regions of "
        "its tokens, and a legend with their area shares and classes. --attention shows the "
        "attention of one token, --counts the image with several numbers of tokens.",
    )
    add_model_arguments(parser)
    parser.add_argument("file", metavar="FILE", help="GeoTIFF, PNG or JPEG, read completely")
    parser.add_argument("out", metavar="OUT.png", help="picture to write")
    add_bidx(parser, "image")
    number = parser.add_mutually_exclusive_group()
    number.add_argument(
        "--num-tokens",
        type=positive_int,
        metavar="K",
        help="number of tokens (default: the model's)",
    )
    number.add_argument(
        "--counts",
        type=counts,
        metavar="K,K,...",
        help="the same image with each of these numbers of tokens, such as 2,4,8,16",
    )
    parser.add_argument(
        "--attention",
        nargs="?",
        type=token,
        const=-1,
        metavar="T",
        help="attention of token T (from 0), or without T of the token of the pixel --at",
    )
    parser.add_argument(
        "--at",
        nargs=2,
        type=int,
        metavar=("ROW", "COL"),
        help="a pixel of the image, from 0: its token for --attention; with --counts, its regions "
        "are highlighted",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--quiet", "-q", action="store_true", help="no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Carry out the subcommand."""
    _check_options(args)
    from hook.inference.models import load_model
    from hook.visualization.tokens import show_attention, show_token_counts, show_tokens

    model = load_model(model_of(args), device=args.device)
    options = {"path": args.out, "overwrite": args.overwrite, "bidx": args.bidx}
    at = None if args.at is None else tuple(args.at)
    if args.counts is not None:
        show_token_counts(model, args.file, args.counts, at=at, **options)
    elif args.attention is not None:
        token = None if args.attention < 0 else args.attention
        show_attention(model, args.file, token, at=at, num_tokens=args.num_tokens, **options)
    else:
        show_tokens(model, args.file, num_tokens=args.num_tokens, **options)
    if not args.quiet:
        print(args.out, file=sys.stderr)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before a model is loaded."""
    if not args.out.lower().endswith(".png"):
        raise ConfigError(
            f"{args.out}: pictures are written as PNG",
            expected="a name ending in .png",
            remedy="choose a name ending in .png",
        )
    if args.attention == -1 and args.at is None:
        raise ConfigError(
            "--attention shows one token",
            expected="its id, or one of its pixels",
            found="--attention alone",
            remedy="use --attention T, or --attention --at ROW COL",
        )
    if args.counts is not None and args.attention is not None:
        raise ConfigError(
            "--counts and --attention exclude each other", remedy="run the command for each"
        )
    if args.at is not None and args.counts is None and args.attention is None:
        raise ConfigError(
            "--at selects the token of --attention, or the pixel of --counts",
            remedy="add --attention or --counts, or omit --at",
        )
