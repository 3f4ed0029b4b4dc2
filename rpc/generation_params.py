"""What the parameters of generation.proto mean: their ranges, and what is effective when they are not given.

Used by the gateway, to refuse bad input before anything is sent and to report what is effective, and by the worker,
whose callers need not be gateways. `effective_sampling` of an effective value is that value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from google.protobuf.duration_pb2 import Duration

from rpc.errors import invalid_field
from rpc.status import to_seconds
from tokenmill.v1.generation_pb2 import OutputOptions, SamplingParams
from tokenmill.v1.worker_pb2 import GenerationDefaults

MAX_STOP_TOKEN_IDS = 64
MAX_CACHE_SALT_BYTES = 128
MAX_DURATION_SECONDS = 315_576_000_000  # of google.protobuf.Duration: 10,000 years
MAX_LOGIT_BIASES = 1024
MAX_TOP_LOGPROBS = 20
# Of one call. With up to 24 bytes each and 200 bytes of text, far more than tokens have, they fit into a message of
# 32 MiB (rpc/transport.py); 4,096 prompt tokens and 2,000 generated ones may have 20 alternatives each.
MAX_LOGPROBS = 2**17
_FILTERS: Final = ("top_p", "top_k", "min_p", "typical_p")
# The least, the most, and whether the least itself is outside.
_RANGES: Final = {
    "temperature": (0.0, 100.0, False),
    "top_p": (0.0, 1.0, True),
    "min_p": (0.0, 1.0, False),
    "typical_p": (0.0, 1.0, True),
    "repetition_penalty": (0.0, 10.0, True),
    "presence_penalty": (-2.0, 2.0, False),
    "frequency_penalty": (-2.0, 2.0, False),
}
_OFF: Final = SamplingParams(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    typical_p=1.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
)


def check_sampling(sampling: SamplingParams, field: str) -> None:
    """Refuse values outside the contract's ranges. Errors: ServiceError naming the sub-field of `field`."""
    for given, value in sampling.ListFields():
        if given.name in _RANGES:
            least, most, above = _RANGES[given.name]
            _check_range(value, least, most, f"{field}.{given.name}", above=above)
    if sampling.HasField("top_k") and sampling.top_k < 0:
        raise invalid_field(f"{field}.top_k", f"must be at least 0 (0 is off), got {sampling.top_k}")
    if len(sampling.logit_bias) > MAX_LOGIT_BIASES:
        message = f"at most {MAX_LOGIT_BIASES} entries, got {len(sampling.logit_bias)}"
        raise invalid_field(f"{field}.logit_bias", message)
    for token_id, bias in sampling.logit_bias.items():
        if not -100 <= bias <= 100:
            message = f"must be at least -100 and at most 100, got {bias:g} for token {token_id}"
            raise invalid_field(f"{field}.logit_bias", message)


def check_token_ids(ids: Iterable[int], vocabulary_size: int, field: str) -> None:
    """Refuse ids that the model does not know. Errors: ServiceError naming `field`."""
    largest = max(ids, default=0)
    if largest >= vocabulary_size:
        raise invalid_field(field, f"{largest} is outside the vocabulary (0 to {vocabulary_size - 1})")


def check_output_options(output: OutputOptions, field: str) -> None:
    """Refuse what cannot be returned. Errors: ServiceError naming the sub-field of `field`."""
    if not 0 <= output.top_logprobs <= MAX_TOP_LOGPROBS:
        raise invalid_field(f"{field}.top_logprobs", f"must be 0 to {MAX_TOP_LOGPROBS}, got {output.top_logprobs}")
    if output.top_logprobs and not (output.logprobs or output.prompt_logprobs):
        raise invalid_field(f"{field}.top_logprobs", "goes with logprobs or prompt_logprobs: neither is asked for")


def alternatives(output: OutputOptions) -> tuple[int | None, int | None]:
    """How many alternatives a generated token, and a token of a prompt, comes with; None: no log-probability."""
    top = output.top_logprobs
    return (top if output.logprobs else None), (top if output.prompt_logprobs else None)


def logprob_count(tokens: int, top: int | None) -> int:
    """How many log-probabilities `tokens` tokens have, with `top` alternatives each; None: they are not asked for."""
    return 0 if top is None else tokens * (1 + top)


def check_logprob_count(of_prompts: int, of_outputs: int, field: str) -> None:
    """Refuse more log-probabilities than a call may have. Errors: ServiceError naming the sub-field of `field`."""
    if of_prompts + of_outputs > MAX_LOGPROBS:
        name = "prompt_logprobs" if of_prompts > MAX_LOGPROBS else "logprobs"
        message = (
            f"up to {of_prompts + of_outputs} log-probabilities, each alternative counted, are too many for one call: "
            f"at most {MAX_LOGPROBS}; lower max_new_tokens or top_logprobs, or send fewer prompts at once"
        )
        raise invalid_field(f"{field}.{name}", message, reason="TOO_MANY_LOGPROBS")


def check_token_limits(max_new_tokens: int | None, min_new_tokens: int, field: str) -> None:
    """Refuse an output length that cannot be. Errors: ServiceError naming the sub-field of `field`."""
    if max_new_tokens is not None and max_new_tokens < 1:
        raise invalid_field(f"{field}.max_new_tokens", f"must be at least 1, got {max_new_tokens}")
    if min_new_tokens < 0:
        raise invalid_field(f"{field}.min_new_tokens", f"must be at least 0, got {min_new_tokens}")
    if max_new_tokens is not None and min_new_tokens > max_new_tokens:
        message = f"must be at most max_new_tokens ({max_new_tokens}), got {min_new_tokens}"
        raise invalid_field(f"{field}.min_new_tokens", message)


def check_time_limit(time_limit: Duration, field: str) -> float:
    """The limit in seconds. Errors: ServiceError."""
    seconds = to_seconds(time_limit)
    if not 0 < seconds <= MAX_DURATION_SECONDS:
        raise invalid_field(field, f"must be above 0 and at most {MAX_DURATION_SECONDS} s")
    return seconds


def check_salt(cache_salt: str, prefix: str) -> None:
    """Refuse an over-long salt. Errors: ServiceError; `prefix` of the field ends with "." unless empty."""
    if len(cache_salt.encode()) > MAX_CACHE_SALT_BYTES:
        raise invalid_field(f"{prefix}cache_salt", f"must be at most {MAX_CACHE_SALT_BYTES} bytes")


def effective_sampling(sampling: SamplingParams, defaults: GenerationDefaults) -> SamplingParams:
    """What holds after all defaults (contract: SamplingParams): every number is set, and the seed if given.

    Filters are inherited from the model's own file by an output that samples, its repetition_penalty by every output
    (as `transformers.generate()` does); a greedy output has temperature 0 and its filters off.
    """
    effective = SamplingParams()
    effective.CopyFrom(_OFF)
    if defaults.sampling.HasField("repetition_penalty"):
        effective.repetition_penalty = defaults.sampling.repetition_penalty
    effective.MergeFrom(sampling)
    effective.temperature = _temperature(sampling, defaults)
    for name in _FILTERS:
        sources = (sampling, defaults.sampling, _OFF) if effective.temperature > 0 else (_OFF,)
        setattr(effective, name, next(getattr(source, name) for source in sources if source.HasField(name)))
    return effective


def _temperature(sampling: SamplingParams, defaults: GenerationDefaults) -> float:
    if sampling.HasField("temperature"):
        return sampling.temperature
    if defaults.do_sample:
        return defaults.sampling.temperature if defaults.sampling.HasField("temperature") else 1.0
    asks_for_sampling = any(sampling.HasField(name) for name in ("top_p", "top_k", "min_p", "typical_p", "seed"))
    return 1.0 if asks_for_sampling else 0.0


def _check_range(value: float, least: float, most: float, field: str, *, above: bool = False) -> None:
    inside = math.isfinite(value) and (least < value if above else least <= value) and value <= most
    if not inside:
        bounds = f"{'above' if above else 'at least'} {least:g} and at most {most:g}"
        raise invalid_field(field, f"must be {bounds}, got {value:g}")
