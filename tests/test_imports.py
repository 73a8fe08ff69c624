"""Imports run one way: errors, models → stores → streaming → engine → runs, sessions → http → extension."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_sessionstatus

PACKAGE = Path(flask_sessionstatus.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))
LAYERS = [
    ["errors", "models", "estimate", "concurrency", "processes", "shutdown", "stops"],
    ["stores"],
    ["config", "streaming", "native", "leases"],
    ["engine"],
    ["runs", "sessions", "tickets", "watches", "queues"],
    ["background"],
    ["state"],
    ["http", "metrics", "dashboard"],
    ["extension"],
    ["cli", "integrations", "__init__"],
]
WITH_FLASK = ("http", "dashboard", "background", "state", "extension", "cli", "integrations")
WITH_REDIS = ("stores",)


def layer(module: str) -> int:
    first = module.split("/")[0]
    return next(number for number, names in enumerate(LAYERS) if first in names)


def imports(module: str) -> Iterator[str]:
    """What a module imports when it runs (not only for types): `name` or `/path/in/this/package`."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for part in node.body
        for inner in ast.walk(part)
    }
    folder = module.split("/")[:-1]
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1]
            if node.module:
                yield "/" + "/".join([*base, *node.module.split(".")])
            else:
                yield from ("/" + "/".join([*base, alias.name]) for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    for found in imports(module):
        if found.startswith("/") and len(found) > 1:
            assert layer(found[1:]) <= layer(module), f"{module} imports {found[1:]}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_outer_modules_know_flask(module: str) -> None:
    names = {found.split(".")[0] for found in imports(module) if not found.startswith("/")}
    if module.split("/")[0] not in WITH_FLASK:
        assert not names & {"flask", "flask_smorest", "webargs", "marshmallow"}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_stores_know_redis(module: str) -> None:
    names = {found.split(".")[0] for found in imports(module) if not found.startswith("/")}
    if module.split("/")[0] not in (*WITH_REDIS, "integrations"):
        assert "redis" not in names


def test_the_package_itself_is_one_list_of_imports() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    kinds = [type(node) for node in tree.body]
    assert set(kinds[1:-1]) == {ast.ImportFrom}
    assert kinds[-1] is ast.Assign
    names = flask_sessionstatus.__all__
    assert names == sorted(names)
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(names)
    assert all(hasattr(flask_sessionstatus, name) for name in names)
