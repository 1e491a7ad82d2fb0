"""Progress bars: one line on a terminal and in a notebook, nothing in a log.

In a notebook with ipywidgets the line is a widget.
"""

import sys
import warnings
from collections.abc import Iterable
from typing import Any

with warnings.catch_warnings():
    # In a notebook without ipywidgets tqdm takes its bar of text, and says so each time.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


def progress_bar(iterable: Iterable | None = None, *, show: bool = True, **options: Any) -> tqdm:
    """Make a progress bar that is seen where somebody looks.

    Args:
        iterable: What is gone through; None for a bar that is moved with ``update``.
        show: Show a bar on a terminal and in a notebook; never where False.
        **options: Options of :class:`tqdm.tqdm`.

    Returns:
        The bar, which is also an iterator and a context manager.
    """
    # tqdm's own choice (None) is by the stream, and a notebook's is no terminal.
    return tqdm(iterable, disable=not show or (False if in_notebook() else None), **options)


def in_notebook() -> bool:
    """Tell whether a notebook's kernel runs this process."""
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell is not None else None
    return type(instance).__name__ == "ZMQInteractiveShell"
