"""``hook tokens``: pictures of the tokens of an image."""

import argparse
import sys

from hook.cli.options import add_model_arguments, model_of, option_type, positive_int
from hook.errors import ConfigError

counts = option_type(
    lambda text: [int(part) for part in text.split(",")],
    lambda counts: min(counts) >= 1,
    "a list of whole numbers such as 2,4,8,16",
)
token = option_type(
    int,
    lambda number: number >= 0,
    "the number of a token, from 0; without a number add --at ROW COL, the pixel whose token is "
    "meant, and let --attention be the last word",
)


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "tokens",
        help="picture the tokens of an image",
        description="Picture which regions of an image became which token: the image, the regions "
        "outlined and numbered, and a legend with their shares and classes. --attention shows "
        "where one token looks, --counts the image in several numbers of tokens.",
    )
    add_model_arguments(parser)
    parser.add_argument("file", metavar="FILE", help="GeoTIFF, PNG or JPEG; it is read whole")
    parser.add_argument("out", metavar="OUT.png", help="picture to write")
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
        help="where token T looks (from 0), or without T the token that owns the pixel of --at",
    )
    parser.add_argument(
        "--at",
        nargs=2,
        type=int,
        metavar=("ROW", "COL"),
        help="a pixel of the image, from 0: its token for --attention; with --counts, the regions "
        "that hold it are lit",
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
    options = {"path": args.out, "overwrite": args.overwrite}
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
    """Refuse options that do not go together, before a model is loaded."""
    if not args.out.lower().endswith(".png"):
        raise ConfigError(
            f"{args.out}: pictures are written as PNG",
            expected="a name in .png",
            remedy="give the picture a name ending in .png",
        )
    if args.attention == -1 and args.at is None:
        raise ConfigError(
            "one token is to be shown",
            expected="its number, or a pixel that it owns",
            found="--attention alone",
            remedy="give one of the two: --attention T, or --attention --at ROW COL",
        )
    if args.counts is not None and args.attention is not None:
        raise ConfigError(
            "--counts and --attention are two pictures", remedy="ask for one after the other"
        )
    if args.at is not None and args.counts is None and args.attention is None:
        raise ConfigError(
            "--at says which token of --attention, or which place of --counts",
            remedy="add --attention or --counts, or leave --at out",
        )
