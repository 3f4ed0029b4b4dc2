"""How the profiler's events become parts of a step, and the table."""

from dataclasses import dataclass

import pytest

from benchmarks.step_profile import Limits, StepProfile, _parts, as_markdown


@dataclass
class Event:
    key: str
    self_cpu_time_total: float


def test_every_event_is_part_of_one_kind_and_the_parts_add_up_to_the_step():
    events = [
        Event("tokenmill::int8_linears_0", 30),
        Event("tokenmill::attend_0", 20),
        Event("graph_0_cpp_fused_add_1", 10),
        Event("## Call CompiledFxGraph f00 ##", 5),
        Event("TorchDynamo Cache Lookup", 5),
        Event("aten::max", 30),
    ]
    assert _parts(events, total=10.0) == pytest.approx(
        {
            "int8 layers (C++)": 3,
            "attention (C++)": 2,
            "fused element-wise": 1,
            "compiled calls": 1,
            "embedding, draw, all else": 3,
        }
    )


def test_the_table_has_a_column_per_number_of_rows_and_the_limits_below():
    parts = _parts([Event("tokenmill::int8_linears_0", 1)], total=4.0)
    table = as_markdown(
        [StepProfile(1, 4.0, parts, 2.0, 0.5), StepProfile(8, 4.0, parts, 3.0, 1.5)], Limits(10e9, 200e9)
    ).splitlines()
    assert table[0] == "| ms per step | 1 row | 8 rows |"
    assert "| int8 layers (C++) | 4.0 | 4.0 |" in table
    assert table[-5:-3] == ["| memory alone | 2.0 | 3.0 |", "| arithmetic alone | 0.5 | 1.5 |"]
    assert table[-2].startswith("Memory: 10.0 GB/s.")
