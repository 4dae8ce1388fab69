"""`python -m kythera.cli`."""

import sys

from kythera.cli import main

sys.exit(main())
