"""`python -m kythera.cli`."""

import sys

from kythera.cli import main

if __name__ == "__main__":
    sys.exit(main())
