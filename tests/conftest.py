"""Settings of every test: how large the proofs are, and what no process may leave behind."""

import os

import process
import pytest


@pytest.fixture(scope="session")
def full() -> bool:
    """TIDEGATE_FULL=1 runs the proofs at the size the release notes quote; without it they take seconds."""
    return os.environ.get("TIDEGATE_FULL") == "1"


@pytest.fixture(autouse=True)
def no_gateway_left():
    """A test that fails in the middle must not leave its gateway to the tests after it."""
    with process.none_left():
        yield
