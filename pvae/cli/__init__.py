"""The shell: `pvae run | train | evaluate | report | compare | check | new | list`.

Imports every room.
"""

from pvae.cli.main import main

__all__ = ["main"]
