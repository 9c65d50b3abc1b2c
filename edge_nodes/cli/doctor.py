# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes doctor`: what this machine has, and the remedy for what it lacks."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.markup import escape

from edge_nodes import graph, models
from edge_nodes.errors import EdgeNodesError, State
from edge_nodes.language import kernel_choice

MEMORY_GB = 2.0
DISCOVERY_TIMEOUT_S = 20
FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "asimd", "asimddp")
TALK = """
import sys, time
import rclpy
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node("doctor_" + sys.argv[1], enable_rosout=False)
heard = []
mine, other = ("ping", "pong") if sys.argv[1] == "a" else ("pong", "ping")
pub = node.create_publisher(String, "/doctor/" + mine, 10)
node.create_subscription(String, "/doctor/" + other, heard.append, 10)
begin = time.monotonic()
sent_after = None
while time.monotonic() - begin < 10 and not (heard and sent_after and time.monotonic() > sent_after):
    pub.publish(String(data=mine))
    rclpy.spin_once(node, timeout_sec=0.05)
    if heard and sent_after is None:
        sent_after = time.monotonic() + 1.0
        print(f"{time.monotonic() - begin:.2f}", flush=True)
node.destroy_node()
rclpy.try_shutdown()
sys.exit(0 if heard else 1)
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: False if the package cannot do its work like this.
        found: what there is.
        remedy: what to do; also for what is good to have, but not needed.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Look at everything; a check that itself fails is a failed check."""
    return [check for look in LOOKS for check in _guarded(look)]


def as_dict(checks: Sequence[Check]) -> dict[str, Any]:
    """Return what --json prints."""
    return {"ok": all(c.ok for c in checks), "checks": [asdict(c) for c in checks]}


def show(console: Console, checks: Sequence[Check]) -> None:
    """Print the checks as a table."""
    for check in checks:
        mark = (
            "[green]OK  [/]"
            if check.ok and not check.remedy
            else "[yellow]note[/]"
            if check.ok
            else "[bold red]BAD [/]"
        )
        console.print(f"{mark}  {check.name:<18} {escape(check.found)}", highlight=False, soft_wrap=True)
        if check.remedy:
            console.print(f"{'':24} -> {escape(check.remedy)}", style="dim", highlight=False, soft_wrap=True)
    bad = sum(not check.ok for check in checks)
    console.print("everything needed is there" if not bad else f"{bad} of {len(checks)} checks failed")


def _guarded(look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001  a doctor must not fall ill of what he finds
        yield Check(look.__name__.strip("_"), False, f"{type(error).__name__}: {error}", "Report this.")


def _python() -> Iterator[Check]:
    here = f"{platform.python_version()} ({sys.prefix}), {platform.machine()}"
    yield Check(
        "Python", sys.version_info >= (3, 10), here, "" if sys.version_info >= (3, 10) else "Use 3.10 or newer."
    )
    needed = ("numpy", "scipy", "torch", "rosbags", "tokenizers", "gguf", "silero_vad", "honcho", "psutil")
    missing = [name for name in needed if find_spec(name) is None]
    remedy = f"pip install {' '.join(missing)}" if missing else ""
    yield Check("libraries", not missing, "missing: " + ", ".join(missing) if missing else "all there", remedy)


def _ros() -> Iterator[Check]:
    if find_spec("rclpy") is None:
        remedy = "pip install 'edge_nodes[ros]', or source your ROS 2 installation. Replay with --out works without."
        yield Check("ROS 2", False, "no module rclpy", remedy)
        return
    done = _python_says("import rclpy; from rclpy.utilities import get_rmw_implementation_identifier as f; print(f())")
    if done.returncode:
        remedy = "Unset _ROS_WHEELS_BOOTSTRAP_COMPLETE and LD_LIBRARY_PATH, or source your ROS 2 installation again."
        yield Check("ROS 2", False, done.stderr.strip().splitlines()[-1] if done.stderr else "rclpy fails", remedy)
        return
    try:
        source = f"wheels, rclpy {version('ros-rclpy')}"
    except PackageNotFoundError:
        source = f"installed, ROS_DISTRO={os.environ.get('ROS_DISTRO', 'not set')}"
    distribution = os.environ.get("ROS_DISTRO") or ("jazzy" if source.startswith("wheels, rclpy 7.") else "unknown")
    yield Check("ROS distribution", True, f"{distribution} ({source})")
    yield Check("RMW", True, done.stdout.strip())
    domain, reach = os.environ.get("ROS_DOMAIN_ID", "0"), os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    profile = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", "not set")
    good = profile == "not set" or Path(profile).is_file()
    found = f"domain {domain}, range {reach}, Fast DDS profile {profile}"
    yield Check("ROS environment", good, found, "" if good else "FASTRTPS_DEFAULT_PROFILES_FILE names no file.")
    prefix = os.environ.get("AMENT_PREFIX_PATH", "")
    note = "" if prefix else f"`ros2 launch` wants: export AMENT_PREFIX_PATH={sys.prefix}"
    yield Check("AMENT_PREFIX_PATH", True, prefix or "not set", note)


def _discovery() -> Iterator[Check]:
    if find_spec("rclpy") is None:
        return
    from edge_nodes.cli.session import environment

    env = environment()
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", TALK, side], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for side in "ab"
    ]
    try:
        out = [process.communicate(timeout=DISCOVERY_TIMEOUT_S) for process in pair]
    except subprocess.TimeoutExpired:
        out = []
        for process in pair:
            process.kill()
            process.communicate()
    good = bool(out) and all(process.returncode == 0 for process in pair)
    if good:
        yield Check("DDS discovery", True, f"two processes met after {max(float(o) for o, _ in out):.2f} s")
        return
    errors = " ".join(e.strip().splitlines()[-1] for _, e in out if e.strip())
    remedy = "Allow UDP multicast on the loopback, free /dev/shm, or unset RMW_IMPLEMENTATION and ROS_LOCALHOST_ONLY."
    yield Check("DDS discovery", False, f"two processes did not meet. {errors}".strip(), remedy)


def _shared_memory() -> Iterator[Check]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free / 2**20
    stale = len(list(folder.glob("fastrtps_*"))) + len(list(folder.glob("fastdds_*")))
    enough = free > 512
    remedy = "" if enough else "Give /dev/shm 512 MB or more, or clouds go through UDP. `fastdds shm clean` may help."
    yield Check("shared memory", True, f"{free:.0f} MB free, {stale} segments of Fast DDS", remedy)


def _cpu() -> Iterator[Check]:
    flags = _cpu_flags()
    usable = len(os.sched_getaffinity(0))
    yield Check("CPU", True, f"{usable} cores, {', '.join(f for f in FLAGS if f in flags) or 'no known extensions'}")


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()


def _memory() -> Iterator[Check]:
    memory = psutil.virtual_memory()
    free, whole = memory.available / 2**30, memory.total / 2**30
    good = free > MEMORY_GB
    remedy = "" if good else f"The graph needs about {MEMORY_GB:g} GB. Stop something."
    yield Check("memory", good, f"{free:.1f} of {whole:.1f} GB free", remedy)


def _gpus() -> Iterator[Check]:
    count = graph.gpu_count()
    if not count:
        yield Check("GPUs", True, "none; the networks run on the CPU")
        return
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        yield Check("GPUs", True, f"{count}, but torch {torch.__version__} uses none", "Install torch with CUDA.")
        return
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Check("GPUs", True, ", ".join(names))


def _audio() -> Iterator[Check]:
    note = "Only microphone_node needs one; apt install libportaudio2, or add your user to the group audio."
    try:
        devices = importlib.import_module("sounddevice").query_devices()
    except (ImportError, OSError) as error:
        yield Check("microphones", True, f"none: {error}", note)
        return
    found = [d["name"] for d in devices if d["max_input_channels"] > 0]
    yield Check("microphones", True, ", ".join(found) or "none", "" if found else note)


def _kernels() -> Iterator[Check]:
    try:
        kernels = importlib.import_module("edge_nodes.native._kernels")
    except ImportError as error:
        remedy = "Build it: pip install --no-build-isolation -e . (needs a C++17 compiler)."
        yield Check("extension kernels", False, str(error), remedy)
        return
    yield Check("extension kernels", True, ", ".join(kernels.supported_kernels()))
    for choice in kernel_choice.known() or kernel_choice.choices([(2560, 2560)]):
        rates = f"int8 products {choice.dot_gmacs:.0f}, tables {choice.lut_gmacs:.0f} GMAC/s"
        few = choice.tables_from > kernel_choice.TABLE_TOKENS
        way = "int8 products" if few else f"tables from {choice.tables_from} tokens on"
        yield Check(f"{choice.rows} x {choice.cols}", True, f"ternary: {way} ({rates})")


def _models() -> Iterator[Check]:
    wanted = {str(model): n.name for n in graph.NODES.values() if (model := getattr(n.config_type()(), "model", ""))}
    there = [model.name for model in models.list_models() if model.path is not None]
    for name in dict.fromkeys([*there, *wanted]):
        try:
            models.check(name)
            known = models.info(name)
            hashed = "its index's hash right (edge-nodes models check: all)" if known.status == "made" else "hash right"
            yield Check(f"model {name}", True, f"{known.megabytes:.1f} MB, {hashed}")
        except EdgeNodesError as error:
            remedy = f"edge-nodes models install {name}" if name in models.INSTALLABLE else "Install the package again."
            missing = f"missing; {wanted.get(name, 'nobody')} needs it"
            yield Check(f"model {name}", False, missing if error.state is State.MODEL_MISSING else str(error), remedy)


def _python_says(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)


LOOKS = (_python, _ros, _discovery, _shared_memory, _cpu, _memory, _gpus, _audio, _kernels, _models)
