"""``python -m studyctl``."""

from studyctl.cli import main

main()
