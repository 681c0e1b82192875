"""Settings of every test: how large the proofs are, and what no process may leave behind."""

import os

import pytest


@pytest.fixture(scope="session")
def full() -> bool:
    """TIDEGATE_FULL=1 runs the proofs at the size the release notes quote; without it they take seconds."""
    return os.environ.get("TIDEGATE_FULL") == "1"
