# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

from setuptools import Distribution, find_packages, setup

NAME = "edge_nodes"

try:
    from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
except ImportError as error:
    raise SystemExit("edge_nodes needs pybind11 to build: pip install 'pybind11>=3,<4'") from error

ParallelCompile(default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0).install()


class _Dist(Distribution):
    """Editable installs ask has_data(); without this they skip data_files (launch, config, ament index)."""

    def has_data(self):
        return self.has_data_files()


def _files(pattern):
    return sorted(str(path) for path in Path().glob(pattern))


ROS = ["ros-jazzy-rclpy[fastrtps]==7.1.6", "ros-jazzy-common-interfaces==5.3.6"]
TRAIN = ["open3d-cpu>=0.20,<0.21; platform_machine == 'x86_64'", "libusb-package>=1.0.26,<2"]
DASHBOARD = ["viser>=1.0,<2"]
REFERENCE = ["sentencepiece>=0.2,<0.3"]  # the tokenizer of the Splitformer authors' checkpoints
PEERS = ["pocketsphinx>=5,<6", "faster-whisper>=1.1,<2", "xllamacpp>=2026.8"]
DEV = [
    "pytest>=9,<10",
    "pytest-timeout>=2.4,<3",
    "hypothesis>=6.150,<7",
    "rapidfuzz>=3.9,<4",  # distances to test the lexicon against
    "ruff>=0.17,<0.18",
    "mypy>=2.4,<3",
    "jsonschema>=4.26,<5",
    "colcon-common-extensions==0.3.0",
    "ros-jazzy-domain-coordinator",
]

setup(
    distclass=_Dist,
    name=NAME,
    version="0.1.0",
    description="Perception, speech and language on a robot's own board, as ROS 2 nodes",
    license="Apache-2.0",
    maintainer="edge_nodes maintainers",
    maintainer_email="maintainers@users.noreply.github.com",
    packages=find_packages(include=[NAME, NAME + ".*"]),
    package_data={
        NAME: [
            "py.typed",
            "weights/*/*",
            "weights/*/*/*",
            "native/*.cpp",
            "native/*.h",
            "cli/*.html",
            "language/*.jinja",
        ]
    },
    python_requires=">=3.10",
    install_requires=[
        "setuptools",
        "numpy>=1.26,<3",
        "scipy>=1.11",
        "torch>=2.4",
        "safetensors>=0.5",
        "silero-vad>=6.2,<7",
        "symspellpy>=6.7,<7",
        "gguf>=0.17",
        "tokenizers>=0.21",
        "jinja2>=3.1",
        "llguidance>=1.6,<2",
        "rosbags>=0.11,<0.12",
        "opencv-python-headless>=4.10",
        "typer>=0.15",
        "rich>=13",
        "psutil>=6",
        "honcho>=2,<3",
        "mcap>=1.6,<2",
        "zstandard>=0.22",
        "matplotlib>=3.8",
        "soundfile>=0.13",
        "sounddevice>=0.5",
    ],
    extras_require={
        "ros": ROS,
        "dashboard": DASHBOARD,
        "train": TRAIN,
        "reference": REFERENCE,
        "peers": PEERS,
        "dev": DEV,
    },
    ext_modules=[
        Pybind11Extension(
            "edge_nodes.native._kernels",
            _files("edge_nodes/native/*.cpp"),
            depends=_files("edge_nodes/native/*.h"),
            cxx_std=17,
            extra_compile_args=["-O3", "-fno-math-errno", "-fopenmp-simd", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": build_ext},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + NAME]),
        ("share/" + NAME, ["package.xml"]),
        ("share/" + NAME + "/launch", _files("launch/*.launch.py")),
        ("share/" + NAME + "/config", _files("config/*.*")),
        ("share/" + NAME + "/config/demo", _files("config/demo/*.*")),
        ("lib/" + NAME, _files("libexec/*")),
    ],
    entry_points={"console_scripts": ["edge-nodes = edge_nodes.cli:main"]},
    zip_safe=False,
)
