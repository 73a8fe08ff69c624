"""Processes whose clock is off: libfaketime answers when they ask for the time; their monotonic clocks are left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest


def library() -> str:
    """The library: the one that the package libfaketime carries, or Debian's. Skips the test where there is none."""
    spec = find_spec("libfaketime")
    folders = (
        [Path(folder) / "vendor" / "libfaketime" / "src" for folder in spec.submodule_search_locations or ()]
        if spec
        else []
    )
    found = [folder / "libfaketime.so.1" for folder in folders]
    found += Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    known = next((path for path in found if path.exists()), None)
    if known is None:
        pytest.skip("There is no libfaketime here: install the package of that name.")
    return str(known)


def off_by(offset: str) -> dict[str, str]:
    """The environment of a process whose clock is off by so much, for example `-3600s`."""
    return {
        "LD_PRELOAD": library(),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


class MovableClock:
    """A clock that is off by what a file says, which the process reads again each time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.move("+0s")

    def move(self, offset: str) -> None:
        # Written beside and put in its place: it is read at any moment.
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{offset}\n")
        beside.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        own = {**off_by(""), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1"}
        del own["FAKETIME"]
        return own


@contextlib.contextmanager
def started_with(environment: Mapping[str, str]) -> Iterator[None]:
    """What is started meanwhile has this in its environment."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
