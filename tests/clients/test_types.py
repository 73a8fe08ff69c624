"""client.d.ts, as a strict program of a user's sees it, and against what client.js exports."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from clients.conftest import CLIENT, node_of
from clients.node import JS

STRICT = ["--strict", "--noEmit", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]


def test_a_strict_program_compiles_and_its_mistakes_do_not(packages: Path, tmp_path: Path) -> None:
    for file in (CLIENT, CLIENT.with_suffix(".d.ts"), JS / "sample.ts"):
        shutil.copy(file, tmp_path)
    command = [node_of(20), str(packages / "node_modules" / "typescript" / "bin" / "tsc"), *STRICT, "sample.ts"]
    compiled = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (compiled.returncode, compiled.stdout) == (0, "")
