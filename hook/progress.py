"""Progress bars on a terminal and in a notebook, not in a log."""

import sys
import warnings
from collections.abc import Iterable
from typing import Any

with warnings.catch_warnings():
    # In a notebook without ipywidgets tqdm falls back to text, with a warning.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


def progress_bar(iterable: Iterable | None = None, *, show: bool = True, **options: Any) -> tqdm:
    """Return a progress bar that is shown on a terminal and in a notebook only.

    Args:
        iterable: Iterable to wrap; None for a bar that is advanced with ``update``.
        show: False hides the bar.
        **options: Options of :class:`tqdm.tqdm`.
    """
    # With None tqdm shows a bar on terminals only, and a notebook's stream is not one.
    return tqdm(iterable, disable=not show or (False if in_notebook() else None), **options)


def in_notebook() -> bool:
    """Return whether the process is a notebook kernel."""
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell is not None else None
    return type(instance).__name__ == "ZMQInteractiveShell"
