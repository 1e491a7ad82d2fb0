"""Print a config with its ``_base_`` parts and options merged."""

import argparse
import os
import sys

from hook.engine.configs import add_config_options, load_config
from hook.errors import reports_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    add_config_options(parser)
    return parser.parse_args()


@reports_errors
def main() -> None:
    args = parse_args()
    text = load_config(args.config, args.cfg_options).pretty_text
    try:
        print(text, flush=True)
    except BrokenPipeError:  # such as "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
