"""Tiny random models of many families, and a driver that feeds an engine by hand. Shared by the engine's tests."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4Config,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model_worker.engine import Draw, EngineSpec, RowFailure, Segment
from model_worker.loading.adapter_files import read_adapter_files
from model_worker.sequence import Extent, RowParams, SamplingParams, Sequence
from model_worker.torch_engine.attention.kernel import AttentionKernel
from model_worker.torch_engine.attention.views import ViewAttention
from model_worker.torch_engine.attention_probe import probe_layers
from model_worker.torch_engine.lora_weights import attach_adapters
from model_worker.torch_engine.native.library import NativeLibrary
from model_worker.torch_engine.transformers_engine import TransformersEngine

VOCABULARY = 97
CONTEXT = 128
EOS = 1
_COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": EOS, "pad_token_id": 2}
_SIZES = _COMMON | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
# An output head of its own, where the family shares it with the embedding: a random one only repeats its input.
_UNTIED = {"tie_word_embeddings": False}
# Two layers of different kinds.
_SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]} | _UNTIED

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_SIZES),
    "mistral": lambda: MistralConfig(**_SIZES, sliding_window=8),
    "qwen2": lambda: Qwen2Config(**_SIZES),
    "qwen3": lambda: Qwen3Config(**_SIZES, head_dim=16),
    "gemma2": lambda: Gemma2Config(
        **_SIZES, **_SLIDING, head_dim=8, attn_logit_softcapping=0.5, query_pre_attn_scalar=5
    ),
    "gemma3": lambda: Gemma3TextConfig(**_SIZES, **_SLIDING, head_dim=8),
    "phi3": lambda: Phi3Config(**_SIZES, sliding_window=8),
    "gpt2": lambda: GPT2Config(**_COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT),
    "gpt_neox": lambda: GPTNeoXConfig(**{**_SIZES, "num_key_value_heads": 4}),
    "mixtral": lambda: MixtralConfig(**_SIZES, num_local_experts=4, sliding_window=8),
    "olmo2": lambda: Olmo2Config(**_SIZES),
    "gpt_oss": lambda: GptOssConfig(**_SIZES, **_SLIDING, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    "stablelm": lambda: StableLmConfig(**_SIZES),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **_SIZES, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
    ),
    "starcoder2": lambda: Starcoder2Config(**_SIZES, **_UNTIED, sliding_window=8),
    "cohere2": lambda: Cohere2Config(**_SIZES, **_SLIDING),
    "granite": lambda: GraniteConfig(**_SIZES),
    # Every second layer without rotary positions.
    "smollm3": lambda: SmolLM3Config(**_SIZES, **_UNTIED, no_rope_layer_interval=2),
    "glm4": lambda: Glm4Config(**_SIZES, head_dim=8),
    "opt": lambda: OPTConfig(
        **_COMMON,
        **_UNTIED,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        word_embed_proj_dim=32,
    ),
}


def tiny_model(family: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """Build the family's random model, always the same one.

    The weights are larger than at the start of a training, so that attention has something to decide.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]()).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or "sink" in name:
                parameter.mul_(6.0 if "embed" not in name else 20.0)
    if dtype == torch.float64 and "experts" in str(model):
        model.set_experts_implementation("eager")  # the grouped kernel has no float64
    return model


@contextmanager
def engine_for(
    model: PreTrainedModel,
    capacity: int = 1024,
    quantization: str = "none",
    adapters: Mapping[str, Path] | None = None,
    kernel: AttentionKernel | None = None,
    native: NativeLibrary | None = None,
) -> Iterator[TransformersEngine]:
    """Put an engine around `model`, with the LoRA adapters of some folders, and take it off again.

    Two threads of `native` compute, where it is given.
    """
    switch = attach_adapters(model, read_adapter_files(adapters or {}, max_rank=64), model.dtype)
    layers = probe_layers(model)
    spec = EngineSpec(
        vocabulary_size=model.config.vocab_size,
        context_length=CONTEXT,
        kv_capacity_tokens=capacity,
        kv_bytes_per_token=sum(shape.bytes_per_token for shape in layers.values()),
        eos_token_ids=frozenset({EOS}),
        device="cpu",
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=quantization,
        adapters=tuple(adapters or ()),
    )
    kernel = kernel or ViewAttention(token_by_token=quantization == "int8")
    helpers = partial(native.helpers_awake, 2) if native else nullcontext
    engine = TransformersEngine(model, layers, spec, kernel, switch, helpers)
    try:
        yield engine
    finally:
        engine.close()


def reference(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> list[int]:
    """What `generate` says about `prompt` alone, greedily, the end of sequence ignored."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=2,
        eos_token_id=None,
    )
    return out[0, len(prompt) :].tolist()


def prompt_of(length: int, seed: int, vocabulary: int = VOCABULARY) -> list[int]:
    """Return ids that look like nothing in particular."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (length,), generator=generator).tolist()


def sequence_of(prompt: list[int], extent: Extent, sampling: SamplingParams | None = None, **params: Any) -> Sequence:
    """Return a row at its arrival."""
    return Sequence(
        params=RowParams(sampling=sampling or SamplingParams(), **params),
        ids=array("i", prompt),
        prompt_tokens=len(prompt),
        extent=extent,
        banned_ids=frozenset({EOS}) if params.get("min_new_tokens") else frozenset(),
    )


@dataclass
class Row:
    """One sequence under the driver: joins at step `arrives`, computes at most `chunk` tokens a step."""

    sequence: Sequence
    new_tokens: int
    chunk: int = 1000
    arrives: int = 0
    failure: RowFailure | None = None
    generated: list[int] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.failure is None and len(self.generated) < self.new_tokens

    def segment(self) -> Segment:
        length = min(self.chunk, self.sequence.uncomputed)
        return Segment(self.sequence, self.sequence.computed, length, draws=length == self.sequence.uncomputed)


def drive(engine: TransformersEngine, rows: list[Row]) -> list[list[int]]:
    """Step until every row has its tokens; return what each generated."""
    step = 0
    while any(row.running for row in rows):
        active = [row for row in rows if row.running and row.arrives <= step]
        segments = [row.segment() for row in active]
        outcomes = engine.step(segments) if segments else []
        for row, segment, outcome in zip(active, segments, outcomes, strict=True):
            row.sequence.computed += segment.length
            if isinstance(outcome, Draw):
                row.generated.append(outcome.token_id)
                row.sequence.ids.append(outcome.token_id)
            elif outcome is not None:
                row.failure = outcome
            else:
                assert not segment.draws
        step += 1
    return [row.generated for row in rows]
