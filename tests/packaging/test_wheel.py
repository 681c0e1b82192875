"""What is shipped: the built wheel holds the four packages and nothing else, and starts in an environment of its own."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_exactly_the_four_packages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gateway", "drivers", "pipelines", "sinks"}
    for package in ("gateway", "drivers", "pipelines", "sinks"):
        assert f"{package}/py.typed" in names
    page = ROOT / "gateway" / "status" / "static"
    assert {f"gateway/status/static/{file.name}" for file in page.iterdir()} <= set(names)
    assert "gateway/status/static/index.html" in names
    assert "pipelines/recipes/tasmota.yaml" in names
    assert "gateway/status/static/index.html" in names
    assert not [name for name in names if "test_" in name or name.endswith(".pyc")]


def test_the_wheel_runs_without_the_checkout(wheel, tmp_path):
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]\n"
        "from click.testing import CliRunner\nfrom gateway.cli import main\nimport gateway\n"
        f"assert gateway.__file__.startswith({str(target)!r}), gateway.__file__\n"
        "result = CliRunner().invoke(main, ['plugins'])\nassert result.exit_code == 0, result.output\n"
        "assert 'mqtt' in result.output and 'window' in result.output\n"
    )
    libraries = sysconfig.get_paths()["purelib"]
    subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.append({libraries!r})\n" + code],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
