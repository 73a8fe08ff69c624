from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from processes.client import Client, wait_until
from readme.blocks import ROOT, blocks
from servers import free_port

PACKAGED = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
FILES = ("app.py", "static/index.html", "static/conversation.js")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel: the one that tox has built, else one built from a copy of the source."""
    built = os.environ.get("TOX_PACKAGE")
    if built:
        return Path(built)
    folder = tmp_path_factory.mktemp("source")
    for name in PACKAGED:
        copy(ROOT / name, folder)
    copytree(ROOT / "flask_sessionstatus", folder / "flask_sessionstatus", ignore=ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder / "dist"), str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="session")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel in it; the dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("host") / ".venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-I", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    own = subprocess.check_output(
        [str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (Path(own.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def environment() -> dict[str, str]:
    """An environment in which nothing is imported but what is installed."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHONPATH", "FLASK_", "SESSIONSTATUS"))
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the host application of the README, and nothing else."""
    folder = tmp_path / "empty"
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(blocks()[name], encoding="utf-8")
    return folder


@pytest.fixture
def host(python: Path, folder: Path, environment: dict[str, str]) -> Iterator[Callable[..., Client]]:
    """Starts the host application as the README says; settings of the package come from the environment."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(**settings: object) -> Client:
        port = free_port()
        log = folder.parent / f"flask-{len(processes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(python), "-m", "flask", "--app", "app", "run", "--port", str(port)],
                cwd=folder,
                env={**environment, **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings.items()}},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        processes.append(process)
        client = Client(f"http://127.0.0.1:{port}")

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return client.get("/api/v1/health").status == 200
            except OSError:
                return False

        wait_until(answers, 20, "flask answers")
        return client

    yield start
    for process in processes:
        process.kill()
        process.wait()
