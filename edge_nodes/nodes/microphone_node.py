# SPDX-License-Identifier: Apache-2.0
"""microphone_node: captures sound and publishes it as PCM."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from edge_nodes import graph
from edge_nodes.errors import EdgeNodesError
from edge_nodes.nodes.base import STOP_TIMEOUT_S, EdgeNode
from edge_nodes.nodes.running import run
from edge_nodes.pipeline import Output


class MicrophoneNode(EdgeNode):
    """Publishes each block of the microphone on `audio`."""

    def __init__(self, **node_options: Any) -> None:
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        super().__init__(graph.NODES["microphone_node"], **node_options)

    def load(self, progress: Callable[[str], None]) -> None:
        """Open the device once, so that a missing one fails here and not later."""
        from edge_nodes.speech.microphone import Microphone

        with Microphone(self.config):
            progress("the microphone opens")

    def start(self) -> None:
        """Start capturing."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._capture, name="microphone", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop capturing."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
            self._thread = None

    def _capture(self) -> None:
        while not self._stopped.is_set():
            try:
                self._publish_blocks()
            except EdgeNodesError as error:  # an unplugged microphone comes back: keep trying
                self._bad(error.state, str(error))
                self._stopped.wait(2.0)

    def _publish_blocks(self) -> None:
        from edge_nodes.pipelines.audio import audio_fields
        from edge_nodes.speech.microphone import Microphone

        with Microphone(self.config) as microphone:
            for block in microphone:
                if self._stopped.is_set():
                    return
                self.statistics.arrived()
                self.publish(Output("audio", audio_fields(block, self.config.rate_hz)))


def main() -> None:
    """Run the node."""
    run(MicrophoneNode)


if __name__ == "__main__":
    main()
