"""The store for more than one process: Redis or Valkey."""

from .address import Address, connect
from .store import RedisStore

__all__ = ["Address", "RedisStore", "connect"]
