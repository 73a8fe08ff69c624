"""Lets tox find the Pythons of pyenv: a shim answers only for versions that PYENV_VERSION names."""

from __future__ import annotations

import os
import shutil
import subprocess

from tox.config.cli.parser import ToxParser
from tox.plugin import impl


@impl
def tox_add_option(parser: ToxParser) -> None:
    """Name all installed versions, those in use first, unless somebody has chosen some."""
    if shutil.which("pyenv") is None or "PYENV_VERSION" in os.environ:
        return
    in_use = _pyenv("version-name").split(":")
    os.environ["PYENV_VERSION"] = ":".join(
        dict.fromkeys([*in_use, *_pyenv("versions", "--bare", "--skip-aliases").split()])
    )


def _pyenv(*arguments: str) -> str:
    return subprocess.run(["pyenv", *arguments], capture_output=True, text=True, check=False).stdout.strip()
