"""unsilent gives a silent video its sound."""

from unsilent.version import __version__

__all__ = ["__version__"]
