"""Entry point of ``python -m training.pocket``."""

import sys

from training.pocket.cli import main

if __name__ == "__main__":
    sys.exit(main())
