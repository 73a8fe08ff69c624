"""Sessions that other programs write into Redis, under their own key names."""

from .templates import ExistingKeys

__all__ = ["ExistingKeys"]
