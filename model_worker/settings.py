"""What a model worker can be told. Names are vLLM's where the meaning is the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from model_worker.loading.private_folder import CODE_FOLDER
from model_worker.loading.schemes import ComputeDtype, SchemeOption
from rpc.settings import ServiceSettings, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerSettings(ServiceSettings):
    """Tokenmill model worker: token tensors in, streamed token ids out."""

    port: int = option("port to listen on; 0 picks a free one", 50053, at_least=0, at_most=65535)
    worker_id: str | None = option("name of this worker for its callers; none: the host's name and the port", None)
    model: Path = option("local model folder (safetensors)")
    served_model_name: str | None = option("the model's name in requests; none: the folder's name", None)
    tokenizer: Path | None = option("folder with the model's tokenizer.json; none: the model folder", None)
    engine: Literal["transformers", "fake", "scripted"] = option(
        "what computes: transformers; fake (arithmetic instead of a model), for trying the rest; or scripted, which is"
        " fake at a pace, with words and with faults of your choice, for testing what calls a worker",
        "transformers",
    )
    script: Path | None = option("scripted: JSON file that says how to behave (docs/scripted-worker.md)", None)
    device: Literal["auto", "cpu", "cuda"] = option("where the model runs; auto: cuda if there is one", "auto")
    device_map: Literal["single", "auto"] = option("auto: the model's layers over all CUDA devices", "single")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = option(
        "of the computation; auto: float32 on a CPU; on a GPU bfloat16, or as saved if not quantized", "auto"
    )
    quantization: SchemeOption = option(
        "of the weights; auto: as the model's files are quantized, else bnb-nf4 on cuda, int8 on a CPU", "auto"
    )
    bnb_double_quantization: bool = option("bitsandbytes' 4 bits only: quantize the scales too", False)
    bnb_compute_dtype: ComputeDtype = option("of the products of bitsandbytes' 4 bits; auto: as --dtype", "auto")
    bnb_int8_threshold: float = option(
        "bnb-int8: inputs beyond it are computed in 16 bits, and rows then depend on the others of a step; 0: none",
        0.0,
        at_least=0,
        at_most=1e6,
    )
    quantization_skip_modules: tuple[str, ...] = option(
        "modules that stay unquantized, by name or part of it (lm_head, layers.0, mlp.down_proj); repeatable", ()
    )
    max_model_len: int | None = option("context in tokens; none: the model's own", None, at_least=2, at_most=2**24)
    max_num_seqs: int = option("rows computed at once", 32, at_least=1, at_most=4096)
    max_num_batched_tokens: int = option(
        "tokens per step: bounds how long one step takes, and so the pause between tokens",
        256,
        at_least=1,
        at_most=2**20,
    )
    max_queued_rows: int = option(
        "rows that wait at most; beyond it calls are refused", 256, at_least=0, at_most=100_000
    )
    enable_prefix_caching: bool = option(
        "keep the keys and values of rows that ended, and start rows from those of others that share their prefix", True
    )
    kv_cache_memory: int | None = option(
        "bytes for keys and values, such as 4GiB; none: from what is free", None, at_least=1, at_most=2**50, size=True
    )
    lora_modules: tuple[str, ...] = option(
        "[NAME=]PATH of a LoRA adapter's folder, as peft writes it, served beside the model; repeatable", ()
    )
    max_lora_rank: int = option("largest rank of an adapter", 64, at_least=1, at_most=4096)
    threads: int | None = option("CPU threads; none: the cores our cgroup grants", None, at_least=1, at_most=1024)
    compile: bool = option("compile the model's layers when loading; needs a C++ compiler, takes up to a minute", False)
    native_kernels: bool = option(
        "on a CPU with a C++ compiler: our own code for attention and int8, which takes seconds to compile, once", True
    )
    compile_cache: Path = option("folder for compiled code, for the next start", CODE_FOLDER)
    seed: int = option(
        "of sampling rows whose caller gives none (a gateway always does)", 0, at_least=0, at_most=2**64 - 1
    )

    @property
    def model_name(self) -> str:
        """The served name."""
        return self.served_model_name or self.model.resolve().name

    @property
    def tokenizer_folder(self) -> Path:
        """Where the vocabulary's files are."""
        return self.tokenizer or self.model
