# SPDX-License-Identifier: Apache-2.0
"""The kernels on other processors: cross-compiled for aarch64 and run under qemu, and compiled for this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "edge_nodes" / "native"
MAIN = Path(__file__).parent / "portability" / "main.cpp"
DISPATCH = [*sorted(NATIVE.glob("kernels*.cpp")), NATIVE / "packing.cpp"]
KERNELS = [*DISPATCH, NATIVE / "ternary.cpp", NATIVE / "pool.cpp", MAIN]
DELTA = [*DISPATCH, *(NATIVE / f"delta_{name}.cpp" for name in ("avx2", "avx512", "portable"))]
CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
FLAGS = ["-std=c++17", f"-I{NATIVE}"]


def need(program: str, package: str) -> str:
    if found := shutil.which(program):
        return found
    pytest.skip(f"{program} is not installed (Debian and Ubuntu: apt install {package})")


def compile_all(compiler: list[str], sources: list[Path], folder: Path | None) -> list[str]:
    """Compile each file to an object in `folder`, or only check it; return the objects."""

    def one(source: Path) -> str:
        out = str(folder / (source.stem + ".o")) if folder else ""
        how = ["-c", "-o", out] if folder else ["-fsyntax-only"]
        done = subprocess.run([*compiler, *FLAGS, *how, str(source)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{source.name}: {done.stderr[-3000:]}"
        return out

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(one, sources))


def build(compiler: str, level: str, folder: Path, sources: list[Path] = KERNELS) -> Path:
    objects = compile_all([compiler, level], sources, folder)
    subprocess.run([compiler, "-static", "-pthread", *objects, "-o", str(folder / "main")], check=True)
    return folder / "main"


@pytest.fixture(scope="module")
def aarch64_program(tmp_path_factory):
    return build(need(CROSS, "g++-aarch64-linux-gnu"), "-O1", tmp_path_factory.mktemp("aarch64"))


@pytest.mark.parametrize(
    ("cpu", "kernels"), [("max", ["neondot", "neon", "portable"]), ("cortex-a72", ["neon", "portable"])]
)
def test_aarch64_kernels_equal_integers(aarch64_program, cpu, kernels):
    emulator = need(EMULATOR, "qemu-user")
    done = subprocess.run(
        [emulator, "-cpu", cpu, str(aarch64_program)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    assert done.stdout.split() == kernels


def test_the_extension_compiles_for_aarch64():
    compiler = need(CROSS, "g++-aarch64-linux-gnu")
    pybind11 = pytest.importorskip("pybind11")
    headers = ["-isystem", sysconfig.get_paths()["include"], "-isystem", pybind11.get_include()]
    rest = [source for source in sorted(NATIVE.glob("*.cpp")) if source not in KERNELS]
    assert rest
    compile_all([compiler, *headers], rest, None)


def test_kernels_of_this_processor_equal_integers(tmp_path):
    native = pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
    program = build(need("g++", "g++"), "-O0", tmp_path)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    assert done.stdout.split() == native.supported_kernels()


def test_coded_keys_on_aarch64_equal_sums_in_double_precision(tmp_path):
    emulator = need(EMULATOR, "qemu-user")
    program = build(need(CROSS, "g++-aarch64-linux-gnu"), "-O1", tmp_path, [*DELTA, MAIN.with_name("delta.cpp")])
    done = subprocess.run([emulator, str(program)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    assert set(done.stdout.split()) == {"neon"}
