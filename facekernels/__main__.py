"""`python -m facekernels`, the same as the `facekernels` command."""

import sys

from facekernels.cli import main

sys.exit(main())
