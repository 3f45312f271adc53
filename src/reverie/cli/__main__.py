"""`python -m reverie.cli` is `reverie`."""

import sys

from reverie.cli.main import main

sys.exit(main())
