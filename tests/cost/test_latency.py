import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from reverie.core.errors import CorruptFile, RangeError, ReferenceNotFound
from reverie.core.network import ImageNetwork
from reverie.cost.latency import LatencyTable, measure_networks, read_summaries, read_table
from reverie.cost.layer_graph import LayerShape
from reverie.cost.onnx import export_onnx
from reverie.cost.torch_backend import Torch

CONV = LayerShape("conv", 16, 16, (3, 3), (1, 1), (1, 1), (1, 1), input_size=(14, 14), activation="relu")


def convs(inputs, outputs):
    return [replace(CONV, in_channels=i, out_channels=o) for i in inputs for o in outputs]


@pytest.fixture
def synthetic(monkeypatch):
    """A machine whose times are known: linear in the input width, with a bend at 96, and stairs in the output width."""
    timed = []

    def ratio(shape):
        bend = max(0, shape.in_channels - 96) * 3
        return (shape.in_channels + bend) * -(-shape.out_channels // 16) / 100 + 0.1

    def time(table, shapes):
        timed.extend(shapes)
        table._yardstick_ms = 0.5
        for shape in shapes:
            table._layers[shape.key] = {"ratio": ratio(shape), "error": 0.001, "measured": True}

    monkeypatch.setattr(LatencyTable, "_time", time)
    return timed, ratio


def test_only_the_bends_are_measured_and_all_times_are_right(synthetic):
    timed, ratio = synthetic
    table = LatencyTable()
    shapes = convs(range(16, 97, 16), (32, 64)) + convs(range(16, 129, 16), (48,))
    table.measure(shapes)
    straight = [shape for shape in timed if shape.out_channels != 48]
    assert sorted(shape.in_channels for shape in straight) == [16, 16, 64, 64, 96, 96]
    for shape in shapes:
        assert table.milliseconds(shape) == pytest.approx(0.5 * ratio(shape), rel=0.04)
        assert table.latency(shape).measured == (shape in timed)


def test_nothing_is_measured_twice(synthetic):
    timed, _ = synthetic
    table = LatencyTable()
    table.measure(convs((16, 32, 48), (16,)) * 2)
    count = len(timed)
    assert count == len({shape.key for shape in timed})
    table.measure(convs((16, 32, 48), (16,)))
    assert len(timed) == count


def test_grouped_and_odd_widths_are_not_interpolated(synthetic):
    timed, _ = synthetic
    grouped = [replace(CONV, in_channels=width, out_channels=width, groups=4) for width in (16, 32, 48, 64)]
    LatencyTable().measure(grouped + convs((16, 30, 64), (16,)))
    assert {shape.key for shape in timed} >= {shape.key for shape in grouped}
    assert replace(CONV, in_channels=30) in timed


def test_the_file_is_read_back_and_keeps_other_machines(tmp_path, synthetic):
    timed, ratio = synthetic
    path = tmp_path / "runs" / "latency.json"
    other = {"yardstick_ms": 1.0, "layers": {"linear 1->1": {"ratio": 1.0, "error": 0.0, "measured": True}}}
    LatencyTable(path).measure(convs((16, 64), (16,)))
    stored = json.loads(path.read_text())
    stored["tables"]["another machine"] = other
    path.write_text(json.dumps(stored))
    count = len(timed)
    again = LatencyTable(path)
    again.measure(convs((16, 64), (16, 32)))
    assert len(timed) == count + 2
    assert again.milliseconds(CONV) == pytest.approx(0.5 * ratio(CONV))
    assert json.loads(path.read_text())["tables"]["another machine"] == other


def test_threads_do_not_share_entries(tmp_path, synthetic):
    path = tmp_path / "latency.json"
    LatencyTable(path, threads=1).measure([CONV])
    with pytest.raises(ReferenceNotFound, match="measure"):
        LatencyTable(path, threads=2).milliseconds(CONV)


def test_what_was_measured_before_a_kill_stays(tmp_path, synthetic, monkeypatch):
    path = tmp_path / "latency.json"
    time = LatencyTable._time

    def killed(table, shapes):
        if table._layers:
            raise KeyboardInterrupt
        time(table, shapes)

    monkeypatch.setattr(LatencyTable, "_time", killed)
    shapes = [replace(CONV, in_channels=4 * n, out_channels=4 * n, groups=4) for n in range(1, 20)]
    with pytest.raises(KeyboardInterrupt):
        LatencyTable(path).measure(shapes)
    kept = LatencyTable(path)
    assert sum(shape.key in kept._layers for shape in shapes) == 8


def test_events_end_at_the_total(synthetic):
    events = []
    LatencyTable().measure(convs((16, 32, 48, 64, 80), (16, 32)), on_event=events.append)
    assert events[-1].step == events[-1].total == 10
    assert [event.step for event in events] == sorted(event.step for event in events)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"format": 99, "tables": {}}',
        "{",
        '{"format": 1, "tables": {"a phone": []}}',
        '{"format": 1, "tables": {"a phone": {"yardstick_ms": 1.0}}}',
        '{"format": 1, "tables": {"a phone": {"layers": {}}}}',
        '{"format": 1, "tables": {"a phone": {"yardstick_ms": "1", "layers": {}}}}',
        '{"format": 1, "tables": {"a phone": {"yardstick_ms": 1.0, "layers": {"linear 1->1": {"ratio": 1.0}}}}}',
        '{"format": 1, "tables": {"a phone": {"yardstick_ms": 1.0, "layers": {"linear 1->1": 1.0}}}}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "latency.json"
    path.write_text(content)
    for read in (LatencyTable, read_summaries, lambda path: read_table(path, "a phone")):
        with pytest.raises(CorruptFile, match=r"latency\.json is no latency table|latency\.json is not JSON"):
            read(path)


def test_the_cost_of_a_call_is_no_layer(tmp_path, synthetic):
    path = tmp_path / "latency.json"
    table = LatencyTable(path)
    table.measure([CONV])
    assert table.overhead() < 1
    assert table.timed == LatencyTable(path).timed == 1
    assert [(one.layers, one.measured) for one in read_summaries(path)] == [(1, 1)]


def test_threads_are_those_of_onnx_runtime_and_counted_from_1(exported):
    networks = {"teacher": exported[1]}
    for made in (partial(LatencyTable, threads=2), partial(measure_networks, networks, (1, 16, 16), threads=2)):
        with pytest.raises(RangeError, match=r"threads=2 are those of ONNX Runtime.*the backend torch has its own"):
            made(backend=Torch())
    for wrong in (partial(LatencyTable, threads=0), partial(measure_networks, networks, (1, 16, 16), threads=0)):
        with pytest.raises(RangeError, match="threads must be at least 1, got 0"):
            wrong()
    with pytest.raises(RangeError, match="batch must be at least 1, got 0"):
        measure_networks(networks, (1, 16, 16), batch=0)
    assert LatencyTable().environment == LatencyTable(threads=1).environment


def test_measured_layers_are_ordered_as_their_work_is():
    table = LatencyTable()
    small, large = CONV, replace(CONV, in_channels=64, out_channels=64)
    table.measure([small, large, replace(large, adds=True)])
    # 16 times the work; a runtime is less efficient on the small one.
    assert 5 < table.milliseconds(large) / table.milliseconds(small) < 30
    assert table.milliseconds(replace(large, adds=True)) == pytest.approx(table.milliseconds(large), rel=0.3)
    assert all(table.latency(shape).measured for shape in (small, large))


@pytest.fixture(scope="module")
def exported():
    def network(width):
        body = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            body += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        return export_onnx(ImageNetwork(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1)), image_shape=(1, 16, 16)))

    return network(64), network(32)


def test_networks_are_timed_beside_the_teacher(exported):
    teacher, half = exported
    timings = measure_networks({"teacher": teacher, "same": teacher, "half": half}, (1, 16, 16), tolerance=0.02)
    assert timings["teacher"].ratio_median == 1.0
    assert timings["same"].ratio_median == pytest.approx(1.0, abs=0.06)
    assert 0.2 < timings["half"].ratio_median < 0.6
    assert timings["half"].ratio_error < 0.1


def test_the_layers_add_up_to_the_network(exported):
    stem = replace(CONV, in_channels=1, out_channels=64, input_size=(16, 16))
    inner = replace(stem, in_channels=64)
    table = LatencyTable()
    table.measure([stem, inner])
    predicted = table.milliseconds(stem) + 3 * table.milliseconds(inner)
    measured = measure_networks({"teacher": exported[0]}, (1, 16, 16), tolerance=0.01, seconds=2.0)["teacher"]
    assert predicted == pytest.approx(measured.median_ms, rel=0.25)


def test_measuring_leaves_the_global_random_state():
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    LatencyTable().measure([LayerShape("linear", 8, 8)])
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), torch_state)


def test_the_table_of_another_machine_is_read_and_not_measured(synthetic, tmp_path):
    _, ratio = synthetic
    path = tmp_path / "latency.json"
    LatencyTable(path).measure(convs((16, 32), (16,)))
    stored = json.loads(path.read_text())
    stored["tables"] = {"a phone": next(iter(stored["tables"].values()))}
    path.write_text(json.dumps(stored))
    assert [one.environment for one in read_summaries(path)] == ["a phone"]
    (known, _), (unknown,) = convs((16, 32), (16,)), convs((16,), (48,))
    table = read_table(path, "a phone")
    assert table.milliseconds(known) == pytest.approx(0.5 * ratio(known))
    with pytest.raises(ReferenceNotFound, match="no layer"):
        table.milliseconds(unknown)
    with pytest.raises(ReferenceNotFound, match="a phone is not this machine"):
        table.overhead()
    with pytest.raises(ReferenceNotFound, match="it has a phone"):
        read_table(path, "a watch")
