# SPDX-License-Identifier: Apache-2.0
"""What boards send each other, encrypted: TLS of gloo where torch has it, and the VPN of docs/boards.md."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import vpn

from edge_nodes.cli import emulated_network

distributed = pytest.importorskip("torch.distributed")
pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch without distributed")


ALONE = """
from torch.distributed import HashStore, is_initialized
from edge_nodes.language.boards.link import BoardError, Link
try:
    Link(HashStore(), 0, 1)
except BoardError as error:
    print(error, is_initialized())
"""


def test_transport_that_torch_lacks_is_refused_not_left_out():
    # In a process of its own: torch asks for the transport once.
    environment = {**os.environ, "GLOO_DEVICE_TRANSPORT": "TCP_TLS"}
    for name in ("PKEY", "CERT", "CA_FILE"):
        environment[f"GLOO_DEVICE_TRANSPORT_TCP_TLS_{name}"] = "/no/such"
    run = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, env=environment, timeout=60)
    assert run.returncode == 0, run.stderr
    if "joining the group failed" in run.stdout:
        pytest.skip("this torch speaks TLS, and found no key")
    assert "GLOO_DEVICE_TRANSPORT=TCP_TLS" in run.stdout
    assert "VPN: docs/boards.md. False" in run.stdout


@pytest.fixture
def boards():
    """Two boards on a network of their own, and what runs on them."""
    if not shutil.which("openvpn") or not shutil.which("openssl"):
        pytest.skip("needs openvpn and openssl")
    if why := emulated_network.permitted():
        pytest.skip(why)
    started = []
    with emulated_network.emulated_network(2, latency_s=0.0, bits_per_s=1e9) as network:

        def start(board, command, **environment):
            started.append(network.start(board, command, **environment))
            return started[-1]

        yield start, network.address(0)
        for process in started:
            process.kill()
            process.communicate(timeout=20)


def test_boards_meet_in_a_tunnel_and_strangers_do_not(boards, tmp_path):
    start, address = boards
    ours, theirs = vpn.authority(tmp_path / "ours"), vpn.authority(tmp_path / "theirs")
    server = start(0, vpn.server(ours))
    vpn.until(server, vpn.READY)

    # One that has everything but a certificate by the authority.
    stranger = start(1, vpn.client(ours, vpn.certificate(theirs, "stranger"), address))
    assert "CN=stranger" in vpn.until(server, "VERIFY ERROR") + vpn.until(server, "TLS handshake failed")
    stranger.kill()
    assert vpn.READY not in stranger.communicate(timeout=20)[0]

    vpn.until(start(1, vpn.client(ours, vpn.certificate(ours, "worker"), address)), vpn.READY)
    wire = start(1, vpn.watch())
    vpn.until(wire, "watching")
    task = {"kind": "exchange", "address": "10.78.0.1", "port": 29477, "ranks": 2, "sizes": [4096], "rounds": 1}
    command = [sys.executable, "-m", "edge_nodes.cli.board_process"]
    pair = [start(r, [*command, json.dumps({**task, "rank": r})], GLOO_SOCKET_IFNAME="tun0") for r in range(2)]
    for process in pair:
        said = process.communicate(timeout=100)[0]
        assert process.returncode == 0, said
        assert json.loads(said.splitlines()[-1])["network"]["latency_s"] > 0.0
    wire.terminate()
    said = wire.communicate(timeout=20)[0]
    frames, clear = (int(word) for word in said.split())
    assert frames > 100
    assert clear == 0
