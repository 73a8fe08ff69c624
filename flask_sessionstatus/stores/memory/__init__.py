"""The store for one process."""

from .store import MemoryStore

__all__ = ["MemoryStore"]
