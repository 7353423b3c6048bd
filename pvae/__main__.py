"""`python -m pvae` is `pvae`."""

import sys

from pvae.cli import main

sys.exit(main())
