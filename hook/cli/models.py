"""``hook models``: list and download trained models."""

import argparse
import json
import sys


def add_parser(commands) -> None:
    """Add the subcommand to the subparsers of ``hook``."""
    parser = commands.add_parser(
        "models",
        help="list and download trained models",
        description="Models for '--model NAME' of the commands, and load_model(NAME) in Python: "
        "some come with HOOK, others are downloaded once.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list",
        help="show all models",
        description="Show name, task, bands, classes, score, size and licence of all models.",
    )
    listing.add_argument("--json", action="store_true", help="all fields, as JSON")
    listing.set_defaults(run=_list)
    download = actions.add_parser(
        "download",
        help="download a model's file",
        description="Download a model's file, verify its checksum and print its path. Without "
        "--to, models that come with HOOK are not copied, and others go to $HOOK_HOME/models or "
        "~/.cache/hook/models, where they are found by name.",
    )
    download.add_argument("name", metavar="NAME", help="a model that 'hook models list' shows")
    download.add_argument("--to", metavar="DIR", help="folder for the file")
    download.add_argument("--quiet", "-q", action="store_true", help="no progress bar")
    download.set_defaults(run=_download)


def _list(args: argparse.Namespace) -> None:
    """Print the models."""
    from hook.apis import list_models

    models = list_models()
    if args.json:
        rows = [vars(entry) | {"path": str(entry.place)} for entry in models]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not models:
        print("no models", file=sys.stderr)
        return
    for entry in models:
        where = "comes with HOOK" if entry.file else "to be downloaded"
        if not entry.file and entry.place.is_file():
            where = "downloaded"
        scores = ", ".join(f"{name} {value:g}" for name, value in list(entry.metrics.items())[:2])
        bands = ", ".join(map(str, entry.bands)) or "not named"
        ground = f"; {entry.resolution:g} m pixels" if entry.resolution else ""
        rows = {
            "task": entry.task,
            "bands": bands + ground,
            "classes": ", ".join(entry.classes),
            "scores": f"{scores} ({entry.measured_on})" if scores else "not measured",
            "data": entry.data,
            "licence": entry.licence,
            "credit": entry.attribution,
            "file": f"{entry.size / 1e6:.2f} MB, {where}",
        }
        print(entry.name)
        for label, text in rows.items():
            if text:
                print(f"  {label:<8} {text}")


def _download(args: argparse.Namespace) -> None:
    """Download a model."""
    from hook.apis import download_model

    print(download_model(args.name, args.to, progress=not args.quiet))
