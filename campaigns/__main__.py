"""``python -m campaigns`` is the same as ``kappascout``."""

from campaigns.cli import main

main()
