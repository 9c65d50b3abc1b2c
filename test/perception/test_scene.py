# SPDX-License-Identifier: Apache-2.0
"""Things, tracks, distances, words and alarms from maps drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_nodes.perception import PerceptionError, SceneBuilder, SceneConfig
from edge_nodes.perception.clusters import box, detect, sized_vehicles
from edge_nodes.perception.ground import Ground
from edge_nodes.perception.scene import free_distances

CONFIG = SceneConfig()
N, RES = CONFIG.bev.cells, CONFIG.bev.resolution_m
VEHICLE, PERSON = 3, 4


class World:
    """Axis-aligned things on flat ground 1 m below the sensor."""

    def __init__(self):
        self.labels = np.ones((N, N), np.uint8)
        self.occupancy = np.zeros((N, N), np.float32)
        x, y = np.meshgrid(np.arange(-25, 25, 0.5), np.arange(-25, 25, 0.5))
        self.points = [np.column_stack([x.ravel(), y.ravel(), np.full(x.size, -1.0)])]

    def add(self, label, x, y, length=0.5, width=0.5, height=1.7):
        rows = slice(round(N / 2 - (x + length / 2) / RES), round(N / 2 - (x - length / 2) / RES))
        columns = slice(round(N / 2 - (y + width / 2) / RES), round(N / 2 - (y - width / 2) / RES))
        self.labels[rows, columns] = label
        self.occupancy[rows, columns] = 0.9
        rng = np.random.default_rng(0)
        inside = rng.uniform([-length / 2, -width / 2, -0.7], [length / 2, width / 2, height - 1], (60, 3)) * 0.9
        inside[0, 2] = height - 1
        self.points.append(inside + np.array([x, y, 0]))
        return self

    @property
    def xyz(self):
        return np.concatenate(self.points).astype(np.float32)

    def feed(self, builder, time_s):
        return builder.update(self.labels, self.occupancy, self.occupancy, self.xyz, stamp_ns=round(time_s * 1e9))


def watch(place, seconds=2.0):
    """place(t) -> World; returns the last scene."""
    builder = SceneBuilder(CONFIG)
    for i in range(round(seconds * 10)):
        state = place(i / 10).feed(builder, i / 10)
    return state


def test_a_standing_person_and_a_parked_car():
    state = watch(lambda t: World().add(PERSON, 4, 1).add(VEHICLE, 8, -5, 4.5, 1.75, 1.5))
    person, car = state.objects
    assert (person.kind, car.kind) == ("person", "vehicle")
    assert person.range_m == pytest.approx(math.hypot(3.875, 0.875), abs=0.2)
    assert person.bearing_deg == pytest.approx(math.degrees(math.atan2(1, 4)), abs=3)
    assert person.size_m[2] == pytest.approx(1.7, abs=0.15)
    assert car.size_m[:2] == pytest.approx((4.5, 1.75), abs=0.3)
    assert person.velocity_mps == car.velocity_mps == (0.0, 0.0)
    assert "Ahead: a person at 4.0 m, 14 degrees left, standing" in state.text
    assert state.text.startswith("In sight: 1 person, 1 vehicle.")
    assert state.alarm is None


def test_speed_and_direction_of_someone_who_comes():
    state = watch(lambda t: World().add(PERSON, 8 - 1.2 * t, 0.4), 3.0)
    (person,) = state.objects
    assert person.speed_mps == pytest.approx(1.2, abs=0.25)
    assert person.closing_mps == pytest.approx(1.2, abs=0.25)
    assert "walking towards the robot" in state.text


def test_crossing_is_told_from_coming():
    assert "to the left" in watch(lambda t: World().add(PERSON, 6, -2 + 1.2 * t), 3.0).text
    assert "to the right" in watch(lambda t: World().add(PERSON, 6, 2 - 1.2 * t), 3.0).text


def test_ids_stay_when_paths_come_close():
    builder = SceneBuilder(CONFIG)
    ids = set()
    for i in range(30):
        t = i / 10
        state = World().add(PERSON, 5, -2 + 1.2 * t).add(PERSON, 6.5, 2 - 1.2 * t).feed(builder, t)
        if i > 4:
            assert len(state.objects) == 2
            ids.add(tuple(o.id for o in sorted(state.objects, key=lambda o: o.center_m[0])))
    assert len(ids) == 1


def test_a_thing_is_believed_only_after_some_scans_and_forgotten_when_gone():
    builder = SceneBuilder(CONFIG)
    seen = [len(World().add(PERSON, 4, 0).feed(builder, i / 10).objects) for i in range(4)]
    assert seen == [0, 0, 1, 1]
    assert len(World().feed(builder, 0.4).objects) == 0
    first = World().add(PERSON, 4, 0).feed(builder, 0.5).objects[0].id
    for i in range(20):
        World().feed(builder, 0.6 + i / 10)
    again = [World().add(PERSON, 4, 0).feed(builder, 3 + i / 10).objects for i in range(3)][-1]
    assert again[0].id > first


def test_alarms():
    assert watch(lambda t: World().add(PERSON, 1.5, 0)).alarm.object is not None
    coming = watch(lambda t: World().add(VEHICLE, 14 - 4 * t, 0, 4, 1.75, 1.5), 2.0)
    assert "closing in" in coming.alarm.text
    assert watch(lambda t: World().add(VEHICLE, 6 + 4 * t, 0, 4, 1.75, 1.5), 2.0).alarm is None
    assert watch(lambda t: World().add(VEHICLE, 14 - 4 * t, 5, 4, 1.75, 1.5), 2.0).alarm is None


@pytest.mark.parametrize(
    ("place", "direction"), [((5, 0), "ahead"), ((0, 5), "left"), ((-5, 0), "behind"), ((0, -5), "right")]
)
def test_free_distances(place, direction):
    world = World().add(5, *place, 0.5, 0.5)
    free = free_distances(world.occupancy > 0.5, CONFIG)
    assert free.pop(direction) == pytest.approx(4.75, abs=0.26)
    assert set(free.values()) == {32.0}


def test_box_fits_turned_rectangles():
    rng = np.random.default_rng(5)
    u, v = rng.uniform(-2, 2, 4000), rng.uniform(-0.8, 0.8, 4000)
    yaw = math.radians(30)
    x, y = 3 + math.cos(yaw) * u - math.sin(yaw) * v, -2 + math.sin(yaw) * u + math.cos(yaw) * v
    cx, cy, length, width, got = box(x, y, 0.0)
    assert (cx, cy, length, width) == pytest.approx((3, -2, 4, 1.6), abs=0.05)
    assert got == pytest.approx(yaw, abs=math.radians(3))


def test_specks_and_hollow_ghosts_are_left_out():
    world = World()
    world.labels[100, 100], world.occupancy[100, 100] = PERSON, 0.9
    world.labels[40:42, 40:42], world.occupancy[40:42, 40:42] = PERSON, 0.9
    assert detect(world.labels, world.occupancy, world.xyz, Ground(offset_m=-1.0), CONFIG) == []


def test_poles_and_benches_are_no_persons_whatever_the_network_says():
    world = World().add(PERSON, 6, 3, height=3.5).add(PERSON, 6, -3, height=0.7).add(PERSON, 6, 0, height=1.7)
    ceiling = np.array([[6.0 + dx, 0.0, 1.6] for dx in (-0.1, 0.0, 0.1)])
    world.points.append(ceiling)
    found = detect(world.labels, world.occupancy, world.xyz, Ground(offset_m=-1.0), CONFIG)
    assert {round(d.y): d.label for d in found} == {3: 5, -3: 5, 0: PERSON}


def test_vehicles_of_less_than_half_a_car_are_other_obstacles():
    world = World().add(VEHICLE, 8, 0, 4.0, 1.75).add(VEHICLE, 12, 6, 1.0, 1.0).add(VEHICLE, -8, -6, 5.0, 0.5)
    world.add(VEHICLE, 0, 14, 30, 2)
    labels = sized_vehicles(world.labels, RES)
    assert ((world.labels == VEHICLE) & (labels == 5)).sum() == (4 * 4) + (20 * 2)
    assert ((labels == VEHICLE) == (world.labels == VEHICLE) & (labels != 5)).all()
    found = detect(world.labels, world.occupancy, world.xyz, Ground(offset_m=-1.0), CONFIG)
    assert {(round(d.x), d.label) for d in found} >= {(8, VEHICLE), (12, 5), (-8, 5)}


def test_maps_of_another_size_are_refused():
    world = World()
    with pytest.raises(PerceptionError, match="wrong size"):
        SceneBuilder(CONFIG).update(world.labels[1:], world.occupancy, world.occupancy, world.xyz, stamp_ns=0)
