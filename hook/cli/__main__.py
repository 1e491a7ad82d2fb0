"""``python -m hook.cli``: the ``hook`` command."""

from hook.cli import main

main()
