"""What the benchmarks say of themselves: `--help` tells every option and every part by name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from readme.blocks import ROOT

FILES = sorted((ROOT / "benchmarks").glob("*.py"))
HELPERS = {"filling", "servers"}


@pytest.mark.parametrize("name", [path.stem for path in FILES if path.stem not in HELPERS])
def test_help_says_something_of_each_option(name: str) -> None:
    pytest.importorskip("psutil")
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, cwd=ROOT).stdout
    assert "[]" not in shown
    assert "{" not in shown
    options = shown.partition("\noptions:\n")[2]
    told = re.findall(r"^  (?:-h, )?(--\w+)(?: [A-Z]+)?\s{2,}\S|^  (--\w+) [A-Z]+\n {4,}\S", options, re.MULTILINE)
    assert {"".join(each) for each in told} == set(re.findall(r"\[(--\w+)", shown.partition("\n\n")[0])) | {"--help"}
    if "[part ...]" in shown:
        assert re.search(r"what to measure: \w+, ", shown)


@pytest.mark.parametrize("name", sorted(HELPERS))
def test_what_is_no_benchmark_says_so_first(name: str) -> None:
    said = ast.get_docstring(ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")))
    assert (said or "").startswith("A helper of the other benchmarks")
