"""The entry point of the shell: finds the command and turns errors into exit codes."""

import io
import os
import pkgutil
import sys
import warnings

from pvae.cli.usage import HELP, UsageError
from pvae.errors import PvaeError, nearest
from pvae.version import __version__

__all__ = ["main"]

SPINS = "3000"
"""How often a waiting thread of OpenMP looks before it sleeps: `benchmarks/busy.py`."""

_COMMANDS = {  # imported only when they are called, because the imports take seconds
    "run": "pvae.cli.train:run",
    "train": "pvae.cli.train:train",
    "evaluate": "pvae.cli.evaluate:evaluate",
    "report": "pvae.cli.report:report",
    "compare": "pvae.cli.report:compare",
    "export": "pvae.cli.export:export",
    "list": "pvae.cli.listing:list_names",
    "new": "pvae.cli.new:write_pair",
    "check": "pvae.cli.check:check",
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        The exit code: 0, 1 after a `PvaeError` or for a pair with faults, 2 for a wrong command
        line, 130 after an interrupt. Any other exception is a bug and is not caught.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        # Threads that spin while they wait keep those that work from running on a busy machine.
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    formatwarning = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"pvae: warning: {message}\n"
    if isinstance(sys.stdout, io.TextIOWrapper):  # an encoding such as cp1252 has no k̂
        sys.stdout.reconfigure(errors="replace")
    try:
        return _main(sys.argv[1:] if argv is None else list(argv)) or 0
    except PvaeError as error:
        print(f"pvae: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # a reader such as `| head` has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        warnings.formatwarning = formatwarning


def _main(argv: list[str]) -> int | None:
    name = argv[0] if argv else ""
    if name in _COMMANDS:
        return pkgutil.resolve_name(_COMMANDS[name])(argv[1:])
    if name in ("-h", "--help", "help"):
        print(HELP, end="")
    elif name == "--version":
        print(f"pvae {__version__}")
    elif name:
        raise UsageError(f"There is no command {name}. {nearest(name, _COMMANDS)}")
    else:
        print(HELP, end="", file=sys.stderr)
        return 2
    return 0
