"""pvae: variational autoencoders as Pyro model/guide pairs, and bounds one can trust.

The names are listed in `__init__.pyi` and are loaded on first use, so that `pvae --help` answers
at once.
"""

import lazy_loader

from pvae.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
