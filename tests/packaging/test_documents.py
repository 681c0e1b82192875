"""The documents keep up with the code: links lead somewhere, every command is named, every example loads."""

import re
import sys
from pathlib import Path

import pytest

from gateway.plugin import load, names

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text()
    for path in (ROOT / "gateway" / "cli").glob("[a-z]*.py"):
        assert f"tidegate {path.stem}" in text, path.stem


def test_every_exit_code_78_is_documented():
    assert "78" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("family", ["drivers", "sinks", "steps"])
def test_every_plugin_says_what_it_is(family):
    for name in names(family):
        module = sys.modules[load(family, name).build.__module__]
        assert module.__doc__, name


def test_no_document_names_a_path_of_a_developers_machine():
    for document in DOCUMENTS:
        assert not re.search(r"/(work|root|home/[a-z]+)/", document.read_text()), document
