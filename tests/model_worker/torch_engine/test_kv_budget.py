"""The K/V storage's size: from the flag, or a share of what machine and cgroup leave."""

import pytest
import torch

from model_worker.loading.host_memory import available_bytes
from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.torch_engine import kv_budget
from model_worker.torch_engine.kv_budget import kv_capacity

CPU = torch.device("cpu")
GIB = 2**30


@pytest.mark.parametrize(
    ("requested", "available", "tokens"),
    [(4096, 0, 4), (None, 8 * GIB, 2 * GIB // 1000), (None, 100 * GIB, 4 * GIB // 1000)],
)
def test_the_budget_is_the_flag_or_a_bounded_share(monkeypatch, requested, available, tokens):
    monkeypatch.setattr(kv_budget, "available_bytes", lambda: available)
    assert kv_capacity(requested, {CPU: 1000}, at_least=1) == tokens


def test_on_a_gpu_what_torch_keeps_unused_is_given_back_before_what_is_free_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("empty_cache"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: asked.append("mem_get_info") or (10_000, 20_000))
    assert kv_capacity(None, {torch.device("cuda"): 1000}, at_least=1) == 8
    assert asked == ["empty_cache", "mem_get_info"]


def test_too_little_memory_is_refused_with_the_numbers():
    with pytest.raises(UnavailableOptionError, match="5000 bytes of K/V memory hold 5 tokens of 1000 bytes; 64 are"):
        kv_capacity(5000, {CPU: 1000}, at_least=64)


def test_of_several_devices_the_one_with_the_least_room_for_its_layers_decides(monkeypatch):
    free = {torch.device("cuda", 0): 10_000, torch.device("cuda", 1): 5_000}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 20_000))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    first, second = free
    assert kv_capacity(None, {first: 100, second: 100}, at_least=1) == 40
    assert kv_capacity(None, {first: 400, second: 100}, at_least=1) == 20
    assert kv_capacity(10_000, {first: 400, second: 100}, at_least=1) == 20  # what a flag gives is for all together


@pytest.fixture
def machine(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "memory").mkdir()
    return meminfo, tmp_path


def test_without_a_cgroup_the_machine_decides(machine):
    assert available_bytes(*machine) == 8000 * 1024


def test_a_cgroup_without_a_limit_changes_nothing(machine):
    (machine[1] / "memory.max").write_text("max\n")
    (machine[1] / "memory.current").write_text("12345\n")
    assert available_bytes(*machine) == 8000 * 1024


@pytest.mark.parametrize(
    ("limit", "use", "statistics"),
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
)
def test_a_cgroup_leaves_its_limit_less_its_use_file_cache_not_counted(machine, limit, use, statistics):
    (machine[1] / limit).write_text("1000000\n")
    (machine[1] / use).write_text("600000\n")
    assert available_bytes(*machine) == 400_000
    (machine[1] / statistics).write_text("anon 1\ninactive_file 250000\n")
    assert available_bytes(*machine) == 650_000


def test_this_machine_has_memory_left():
    assert available_bytes() > 0
