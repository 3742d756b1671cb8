"""``python -m rllib_ddn.cli``: the ``rllib`` command where the console script is not on the path."""

from rllib_ddn.cli import main

main()
