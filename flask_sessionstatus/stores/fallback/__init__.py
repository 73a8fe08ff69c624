"""Memory while Redis is away, for hosts that ask for it; what was written meanwhile is handed over."""

from .store import FallbackStore

__all__ = ["FallbackStore"]
