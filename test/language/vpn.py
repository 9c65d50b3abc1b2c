# SPDX-License-Identifier: Apache-2.0
"""Certificates, tunnels and a look at the wire, for boards that meet through a VPN."""

from __future__ import annotations

import subprocess
import sys
import threading

READY = "Initialization Sequence Completed"
COMMON = ["openvpn", "--dev", "tun0", "--dev-type", "tun", "--topology", "subnet", "--verb", "3"]
# Counts all frames and those of TCP on the interface below the tunnel, until it is terminated.
WATCH = """
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 0))
print("watching", flush=True)
frames = clear = 0
try:
    while True:
        frame = wire.recv(65535)
        frames += 1
        clear += frame[12:14] == bytes([8, 0]) and frame[23] == 6
finally:
    print(frames, clear)
"""


def authority(folder):
    """Make the certificate of an authority."""
    folder.mkdir()
    subject = ["-subj", "/CN=authority", "-days", "2", "-nodes", "-newkey", "rsa:2048"]
    openssl("req", "-x509", *subject, "-keyout", folder / "ca.key", "-out", folder / "ca.crt")
    return folder


def certificate(folder, name, use="clientAuth"):
    """Make a key and its certificate by an authority."""
    (folder / "use").write_text(f"keyUsage=digitalSignature\nextendedKeyUsage={use}\n")
    request = ["-subj", f"/CN={name}", "-nodes", "-newkey", "rsa:2048"]
    openssl("req", *request, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr")
    by = ["-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", "2"]
    wanted = ["-in", folder / f"{name}.csr", "-extfile", folder / "use", "-out", folder / f"{name}.crt"]
    openssl("x509", "-req", *by, *wanted)
    return ["--cert", str(folder / f"{name}.crt"), "--key", str(folder / f"{name}.key")]


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def server(ca):
    """The command of the board that others come to."""
    net = ["--server", "10.78.0.0", "255.255.255.0", "--client-to-client", "--dh", "none"]
    net += ["--remote-cert-tls", "client"]
    return [*COMMON, *net, "--ca", str(ca / "ca.crt"), *certificate(ca, "master", "serverAuth")]


def client(ca, certified, address):
    """The command of a board that comes with a certificate."""
    to = ["--client", "--nobind", "--remote", address, "--remote-cert-tls", "server"]
    return [*COMMON, *to, "--ca", str(ca / "ca.crt"), *certified]


def until(process, text):
    """Read what a process says up to a line with `text`; end it when that does not come."""
    said, late = [], threading.Timer(30.0, process.kill)
    late.start()
    for line in process.stdout:
        said.append(line)
        if text in line:
            late.cancel()
            return "".join(said)
    raise AssertionError(f"ended without {text!r}:\n" + "".join(said))


def watch():
    """The command of who looks at the wire."""
    return [sys.executable, "-c", WATCH]
