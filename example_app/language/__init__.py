"""What the engine knows about languages: lists of words, in the files beside this one."""

from __future__ import annotations

from pathlib import Path


def word_list(name: str) -> tuple[str, ...]:
    """The words of `<name>.txt`, in its order; a line that begins with # is a comment."""
    lines = Path(__file__).with_name(f"{name}.txt").read_text("utf-8").splitlines()
    return tuple(word for line in lines if not line.startswith("#") for word in line.split())
