"""``python -m hook.cli``, where the ``hook`` command is not on the path."""

from hook.cli import main

main()
