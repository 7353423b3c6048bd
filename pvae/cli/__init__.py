"""The shell: `pvae run | train | evaluate | report | compare | list | new | check`.

Imports every room.
"""

from pvae.cli.main import main

__all__ = ["main"]
