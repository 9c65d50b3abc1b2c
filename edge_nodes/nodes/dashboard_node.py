# SPDX-License-Identifier: Apache-2.0
"""dashboard_node: the scan, the networks' maps, the objects and the conversation, live in the browser.

Drawn with viser: a kept library that serves its own 3-D viewer from the wheel, so no network is needed. Nothing is
read or drawn while no browser is open.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.clock import Clock
from rclpy.clock_type import ClockType

from edge_nodes import graph
from edge_nodes.errors import EdgeNodesError, State
from edge_nodes.nodes.base import EdgeNode
from edge_nodes.nodes.running import run

_TALK_LINES = 12


class DashboardNode(EdgeNode):
    """Keeps the newest message of each topic and draws at most `max_rate_hz` times a second."""

    def __init__(self, **node_options: Any) -> None:
        self.server: Any = None
        self._newest: dict[str, bytes] = {}
        self._talk: list[str] = []
        self._answer = ""
        self._panels: dict[str, Any] = {}
        self._boxes: list[Any] = []
        self._timer: Any = None
        super().__init__(graph.NODES["dashboard_node"], **node_options)

    def load(self, progress: Callable[[str], None]) -> None:
        """Start the web server."""
        try:
            import viser
        except ImportError:
            raise EdgeNodesError(
                "the dashboard needs viser",
                remedy="Install it: pip install 'edge_nodes[dashboard]'",
                state=State.MODEL_MISSING,
            ) from None
        self.server = viser.ViserServer(host=self.config.host, port=self.config.port, verbose=False)
        self.server.scene.set_up_direction("+z")
        self.server.initial_camera.position = (-22.0, 0.0, 20.0)  # from behind and above, looking ahead
        self.server.initial_camera.look_at = (4.0, 0.0, 0.0)
        progress(f"live view on http://{self.config.host}:{self.server.get_port()}")

    def start(self) -> None:
        """Start drawing."""
        gui = self.server.gui
        blank = np.zeros((8, 8, 3), np.uint8)
        self._panels = {
            "scene/text": gui.add_markdown("*no scene yet*"),
            "talk": gui.add_markdown("*nothing said yet*"),
            "segmentation/labels": gui.add_image(blank, label="segmentation (ahead is up)"),
            "reconstruction/forecast": gui.add_image(blank, label="occupied in 0.5 s"),
        }
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(1.0 / self.config.max_rate_hz, self.draw, clock=clock)

    def stop(self) -> None:
        """Stop drawing; the server goes when the node is cleaned up."""
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None

    def _release(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None
        super()._release()

    def take(self, topic: str, data: bytes, received_ns: int) -> None:
        """Keep the newest of each topic; the conversation in full."""
        if topic == "speech/text" and (words := self.read(topic, data).data):
            self._say(f"**you** {words}")
        elif topic == "language/token":
            self._answer += self.read(topic, data).data
        elif topic == "language/reply":
            self._say(f"**robot** {self.read(topic, data).data}")
            self._answer = ""
        else:
            self._newest[topic] = data

    def _say(self, line: str) -> None:
        self._talk = [*self._talk, line][-_TALK_LINES:]

    def draw(self) -> None:
        """Draw what is new, if a browser is open."""
        if not self.server.get_clients():
            return
        begin = time.perf_counter()
        newest, self._newest = self._newest, {}
        painters = {
            "points": self._draw_points,
            "segmentation/labels": self._draw_labels,
            "reconstruction/forecast": self._draw_forecast,
            "scene/objects": self._draw_objects,
        }
        for topic, data in newest.items():
            try:
                message = self.read(topic, data)
                if topic in painters:
                    painters[topic](message)
                elif topic in self._panels:
                    self._panels[topic].content = message.data
            except Exception as error:  # noqa: BLE001  a node never dies of a message
                self._bad(State.BAD_INPUT, f"a message of {topic} cannot be drawn: {type(error).__name__}: {error}")
        lines = [*self._talk, *([f"**robot** {self._answer} …"] if self._answer else [])]
        self._panels["talk"].content = "\n\n".join(lines) or "*nothing said yet*"
        self.statistics.processed(None, (time.perf_counter() - begin) * 1e3)

    def _draw_points(self, message: Any) -> None:
        from edge_nodes.perception import decode

        xyz = decode(message).xyz
        xyz = xyz[:: max(1, len(xyz) // self.config.max_points)]
        self.server.scene.add_point_cloud("/points", xyz, height_colours(xyz[:, 2]), point_size=0.05)

    def _draw_labels(self, message: Any) -> None:
        from edge_nodes.perception import COLOURS

        labels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
        self._panels["segmentation/labels"].image = np.asarray(COLOURS, np.uint8)[labels]

    def _draw_forecast(self, message: Any) -> None:
        values = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
        grey = (np.clip(values, 0, 1) * 255).astype(np.uint8)
        self._panels["reconstruction/forecast"].image = np.repeat(grey[..., None], 3, axis=2)

    def _draw_objects(self, message: Any) -> None:
        for box in self._boxes:
            box.remove()
        scene = self.server.scene
        self._boxes = []
        for marker in message.markers:
            p, q = marker.pose.position, marker.pose.orientation
            place = {"position": (p.x, p.y, p.z), "wxyz": (q.w, q.x, q.y, q.z)}
            name = f"/objects/{marker.ns}_{marker.id}_{marker.type}"
            if marker.type == marker.CUBE and marker.action == marker.ADD:
                colour = tuple(int(255 * c) for c in (marker.color.r, marker.color.g, marker.color.b))
                size = (marker.scale.x, marker.scale.y, marker.scale.z)
                self._boxes.append(scene.add_box(name, colour, size, wireframe=True, **place))
            elif marker.type == marker.TEXT_VIEW_FACING and marker.action == marker.ADD:
                self._boxes.append(scene.add_label(name, marker.text, position=place["position"]))


def height_colours(z: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return a colour for each height.

    Args:
        z: (N,) float32, m.

    Returns:
        (N, 3) uint8, blue at the lowest 2 % to yellow at the highest 2 %.
    """
    low, high = np.percentile(z, (2, 98))
    t = np.clip((z - low) / max(float(high - low), 1e-3), 0, 1)[:, None]
    ends = np.array([[40, 80, 200], [250, 220, 60]], np.float32)
    colours: npt.NDArray[np.uint8] = (ends[0] + t * (ends[1] - ends[0])).astype(np.uint8)
    return colours


def main() -> None:
    """Run the node."""
    run(DashboardNode)


if __name__ == "__main__":
    main()
