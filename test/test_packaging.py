# SPDX-License-Identifier: Apache-2.0
"""The three ways to install, from one tree: pip, pip -e (what `make setup` does) and colcon."""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_nodes import graph

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = [path.name for path in (ROOT / "launch").glob("*.launch.py")]
SHARE = [
    "package.xml",
    "config/fastdds.xml",
    "config/fastdds_small.xml",
    *(f"launch/{n}" for n in LAUNCH),
    *(f"config/{n}.yaml" for n in graph.NODES),
]
INDEX = "share/ament_index/resource_index/packages/edge_nodes"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what git would check out, with no build leftovers."""
    target = tmp_path_factory.mktemp("ws") / "src" / "edge_nodes"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_the_deployment_guide_names_every_dependency():
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)]
    (needed,) = (k.value for call in calls for k in call.keywords if k.arg == "install_requires")
    names = {re.split("[<>=]", text)[0] for text in ast.literal_eval(needed)} - {"setuptools"}  # colcon has it
    guide = set(re.split(r"[\s=]+", (ROOT / "docs/deployment.md").read_text()))
    assert "torch" in names
    assert not names - guide


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_has_everything(tree, tmp_path):
    pytest.importorskip("pybind11")
    run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, "."], cwd=tree)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        infos = {info.filename: info for info in archive.infolist()}
    data = next(n for n in infos if n.endswith(INDEX)).removesuffix(INDEX)
    for name in SHARE:
        assert f"{data}share/edge_nodes/{name}" in infos
    for node in graph.NODES:
        assert infos[f"{data}lib/edge_nodes/{node}"].external_attr >> 16 & stat.S_IXUSR
    assert any(n.startswith("edge_nodes/native/_kernels") and n.endswith(".so") for n in infos)
    shipped = [p.relative_to(ROOT).as_posix() for p in (ROOT / "edge_nodes/weights").rglob("*") if p.is_file()]
    assert set(shipped) <= set(infos)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("symlink", [False, True], ids=["copy", "symlink"])
def test_colcon_build(tree, symlink):
    pytest.importorskip("colcon_core")
    workspace = tree.parent.parent
    for name in ("build", "install", "log"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    command = [sys.executable, "-m", "colcon", "build", "--packages-select", "edge_nodes"]
    run([*command, *(["--symlink-install"] if symlink else [])], cwd=workspace)
    prefix = workspace / "install" / "edge_nodes"
    assert (prefix / INDEX).is_file()
    for name in SHARE:
        assert (prefix / "share/edge_nodes" / name).is_file()
    for node in graph.NODES:
        assert os.access(prefix / "lib/edge_nodes" / node, os.X_OK)
    check = "import edge_nodes, edge_nodes.native._kernels; from edge_nodes import graph; print(graph.share_dir())"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    path = str(Path(sys.executable).parent) + os.pathsep + env["PATH"]
    out = run(
        ["bash", "-c", f". install/setup.bash && cd / && python3 -c '{check}'"],
        cwd=workspace,
        env={**env, "PATH": path},
    )
    assert str(workspace) in out.stdout
