"""The threads of our C++: each part is computed once, whoever is awake, and whoever else calls."""

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import model_worker.torch_engine.native as package
from model_worker.torch_engine.native.library import cpp_compiler

SOURCES = Path(package.__file__).parent


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crew")
    for name in ("crew.h", "crew.cpp"):
        shutil.copy(SOURCES / name, folder)
    shutil.copy(Path(__file__).with_name("crew_test.cpp"), folder)
    library = folder / "crew.so"
    compile_it = [cpp_compiler(), "-std=c++17", "-O2", "-pthread", "-shared", "-fPIC", "-o", library]
    subprocess.run([*compile_it, folder / "crew.cpp", folder / "crew_test.cpp"], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.sum_of_parts.argtypes = [ctypes.c_int64, ctypes.c_int64]
    loaded.sum_of_parts.restype = ctypes.c_int64
    loaded.wake_helpers.argtypes = [ctypes.c_int64]
    yield loaded
    loaded.rest_helpers()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("parts", [0, 1, 2, 7, 1000])
def test_each_part_is_computed_once(crew, threads, parts):
    crew.wake_helpers(threads)
    for turns in (0, 1, 50):
        for _ in range(200):
            assert crew.sum_of_parts(parts, turns) == parts * (parts - 1) // 2
    crew.rest_helpers()
    assert crew.sum_of_parts(parts, 0) == parts * (parts - 1) // 2


def test_more_parts_than_a_ticket_counts_are_computed_alone(crew):
    crew.wake_helpers(2)
    parts = 2**20 + 3
    assert crew.sum_of_parts(parts, 0) == parts * (parts - 1) // 2


def test_two_threads_compute_at_once_after_any_rest(crew):
    for _ in range(50):
        crew.wake_helpers(2)
        crew.meet()
        crew.rest_helpers()


def test_callers_do_not_get_into_each_others_way(crew):
    crew.wake_helpers(3)

    def call(seed):
        return [crew.sum_of_parts(parts, seed) for parts in range(1, 300)]

    with ThreadPoolExecutor(3) as callers:
        results = [*callers.map(call, range(3))]
    assert results == [[parts * (parts - 1) // 2 for parts in range(1, 300)]] * 3
