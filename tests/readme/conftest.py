from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import TYPE_CHECKING

import pytest
from processes.client import Client, wait_until
from readme.blocks import ROOT, blocks
from servers import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PACKAGED = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
FILES = ("app.py", "static/index.html", "static/conversation.js")
WAIT = 15_000
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    # A microphone that beeps, for which nobody is asked.
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None  # type: ignore[assignment]
    if sync_playwright is None or executable is None:
        missing = "Chromium" if executable is None else "Playwright for Python"
        message = f"The page of the README is not tested: {missing} is missing."
        if os.environ.get("SESSIONSTATUS_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(WAIT)
        yield page
