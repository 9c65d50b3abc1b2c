# SPDX-License-Identifier: Apache-2.0
"""Large files over HTTP: taken up where they broke off, and checked."""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_nodes.errors import ModelError, State

ATTEMPTS = 4  # without a byte in between
WAIT_S = 1.0  # before the second attempt; doubles with each
TIMEOUT_S = 30.0
_CHUNK = 1 << 20
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others soon


def download(
    url: str, target: Path, size: int, progress: Callable[[str], None] = lambda _: None, *, remedy: str = ""
) -> None:
    """Fetch a file; what is there of it already is kept and only the rest fetched.

    Proxies are those of the environment (HTTPS_PROXY, NO_PROXY).

    Args:
        url: http or https.
        target: the file; it may hold the first part of a broken transfer, also after an error.
        size: its bytes when complete.
        progress: called with one line of text, at least every 2 s while bytes come.
        remedy: what to do if the server cannot be reached.

    Raises:
        ModelError: MODEL_MISSING, it cannot be reached or breaks off again and again; OUT_OF_MEMORY, the disk is full;
            MODEL_BAD, the server has a file of another size.
    """
    _check_space(target, size)
    failed = 0
    while (have := _bytes_of(target)) < size:
        try:
            _fetch_rest(url, target, size, progress)
            break
        except urllib.error.HTTPError as refused:
            error: Exception = refused
            failed = failed if refused.code in _PASSING else ATTEMPTS
        except (OSError, http.client.HTTPException) as broken:
            error = broken
        failed = 0 if _bytes_of(target) > have else failed + 1
        if failed >= ATTEMPTS:
            raise ModelError(f"could not download {url}", got=error, remedy=remedy, state=State.MODEL_MISSING)
        progress(f"the transfer broke off at {_bytes_of(target) / 1e6:.0f} MB ({error}); trying again")
        time.sleep(WAIT_S * 2**failed)


def _fetch_rest(url: str, target: Path, size: int, progress: Callable[[str], None]) -> None:
    have = _bytes_of(target)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        start = have if answer.status == 206 else 0  # a server that knows no ranges sends all of it
        _check_size(answer, url, start, size)
        said = begin = time.monotonic()
        with target.open("ab" if start else "wb") as out:
            while chunk := answer.read(_CHUNK):
                out.write(chunk)
                if (now := time.monotonic()) - said > 2.0:
                    rate = (out.tell() - start) / (now - begin)
                    progress(f"{out.tell() / 1e6:.0f} of {size / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s")
                    said = now
    if _bytes_of(target) < size:  # read(n) says nothing of it
        raise ConnectionError("the server closed the connection")


def _check_size(answer: Any, url: str, start: int, size: int) -> None:
    coming = answer.headers.get("Content-Length")
    if coming is not None and start + int(coming) != size:
        raise ModelError(
            f"the file at {url} is not the one that was expected",
            got=f"{start + int(coming)} bytes",
            expected=f"{size} bytes",
            state=State.MODEL_BAD,
        )


def _check_space(target: Path, size: int) -> None:
    free, needed = shutil.disk_usage(target.parent).free, size - _bytes_of(target)
    if free < needed:
        raise ModelError(
            f"the disk of {target.parent} is too full",
            got=f"{free / 1e6:.0f} MB free",
            expected=f"{needed / 1e6:.0f} MB",
            remedy="Make room, or set EDGE_NODES_MODELS to another place.",
            state=State.OUT_OF_MEMORY,
        )


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
