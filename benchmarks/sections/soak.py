"""Does memory grow with the number of requests served?"""

from __future__ import annotations

from benchmarks.load.requests import Lengths, PromptWords
from benchmarks.options import CONFIGURATIONS, BenchOptions
from benchmarks.report.results import Cell, Check, Section, Table
from benchmarks.subjects.engine import EngineSubject
from benchmarks.subjects.remote import Remote
from benchmarks.subjects.usage import memory_bytes

SHORT = Lengths(prompt=(4, 32), output=(1, 8))
IN_FLIGHT = 16
LOOKS = 10
WARM_UP_LOOKS = 2  # until the batches of every size, with the buffers that stay, have been there
# Small, so that all of it was in use before the first look: the system counts a page only once it was written to.
KV_MEMORY = ("--kv-cache-memory", "64MiB")
ALLOWED_MIB = 4.0  # what an allocator keeps here or there
MIB = 2**20


def measure(options: BenchOptions, words: PromptWords) -> Section:
    """Resident memory while requests of mixed lengths come and go, after two tenths as many that warm up."""
    section = Section("Memory over many requests")
    each = options.soak_requests // LOOKS
    flags = (*CONFIGURATIONS[options.served], *KV_MEMORY)
    with Remote(EngineSubject, options.model, flags) as engine:
        looks: list[float] = []
        for look in range(WARM_UP_LOOKS + LOOKS):
            engine.ask(EngineSubject.closed, words.requests(each, SHORT, variant=look), IN_FLIGHT)
            looks.append((memory_bytes(engine.pid) or 0) / MIB)
    looks = looks[WARM_UP_LOOKS - 1 :]
    rows: list[list[Cell]] = [[each * done, memory] for done, memory in enumerate(looks)]
    columns = ["requests after warm-up", "resident MiB"]
    section.tables = [Table(f"Memory of the engine, {options.served}", columns, rows)]
    what = f"MiB more after {options.soak_requests} requests"
    section.checks = [Check(what, looks[-1] - looks[0], at_most=ALLOWED_MIB)]
    return section
