"""How much is measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.load.requests import Lengths

# Flags of a worker that serves a configuration; the engine in process is loaded with the same.
CONFIGURATIONS = {
    "fp32": ("--quantization", "none", "--dtype", "float32"),
    "int8": ("--quantization", "int8"),
    "int8 --compile": ("--quantization", "int8", "--compile"),
    "bnb-nf4": ("--quantization", "bnb-nf4"),
}
# Several engines stand side by side here, and each would take a share of the free memory.
KV_MEMORY = ("--kv-cache-memory", "2GiB")

DECODE = Lengths.exactly(prompt=32, output=24)
CHAT = Lengths.exactly(prompt=64, output=32)
MIXED = Lengths(prompt=(20, 400), output=(16, 256))


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The full measure, unless made quick. Lengths and sizes are tokens."""

    model: Path
    logs: Path  # folder for what the servers of others write
    configurations: tuple[str, ...] = ("fp32", "int8", "int8 --compile")
    served: str = "int8 --compile"  # the configuration that promises are made for
    repetitions: int = 3
    rows: tuple[int, ...] = (1, 8, 16, 32)
    decode: Lengths = DECODE
    mixed: Lengths = MIXED
    mixed_requests: int = 64
    mixed_once: int = 32  # requests for what promises nothing, and is measured once: it would take most of an hour
    mixed_one_by_one: int = 4  # requests for what works on one at a time, where more would change nothing
    stack: Lengths = CHAT
    stack_rounds: int = 4  # requests of each caller
    open_requests: int = 32
    long_prompt: int = 1500
    chunks: tuple[int, ...] = (128, 256, 512, 1024)
    soak_requests: int = 2000
    gateway_tokens: int = 512  # of each stream
    gateway_rounds: int = 4  # streams, or requests, of each caller

    def quick(self) -> Self:
        """A look at whether everything works; its numbers mean little."""
        return dataclasses.replace(
            self,
            repetitions=1,
            rows=(1, 8),
            decode=Lengths.exactly(prompt=8, output=8),
            mixed=Lengths(prompt=(5, 40), output=(4, 16)),
            mixed_requests=16,
            mixed_once=4,
            mixed_one_by_one=2,
            stack=Lengths.exactly(prompt=8, output=8),
            stack_rounds=1,
            open_requests=4,
            long_prompt=300,
            chunks=(64, 256),
            soak_requests=100,
            gateway_tokens=32,
            gateway_rounds=1,
        )

    def flags(self, configuration: str) -> tuple[str, ...]:
        """Of a worker that serves `configuration`."""
        return (*CONFIGURATIONS[configuration], *KV_MEMORY)
