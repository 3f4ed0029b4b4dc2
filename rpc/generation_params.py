"""What the parameters of generation.proto mean: their ranges, and what is effective when they are not given.

Used by the gateway, to refuse bad input before anything is sent and to report what is effective, and by the worker,
whose callers need not be gateways. `effective_sampling` of an effective value is that value.
"""

from __future__ import annotations

import math
from typing import Final

from google.protobuf.duration_pb2 import Duration

from rpc.errors import invalid_field, not_implemented
from rpc.status import to_seconds
from tokenmill.v1.generation_pb2 import OutputOptions, SamplingParams
from tokenmill.v1.worker_pb2 import GenerationDefaults

MAX_STOP_TOKEN_IDS = 64
MAX_CACHE_SALT_BYTES = 128
MAX_DURATION_SECONDS = 315_576_000_000  # of google.protobuf.Duration: 10,000 years
# Fields of SamplingParams this release does not act on.
LATER_SAMPLING: Final = ("min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


def check_sampling(sampling: SamplingParams, field: str) -> None:
    """Refuse values outside the contract's ranges. Errors: ServiceError naming the sub-field of `field`."""
    if sampling.HasField("temperature"):
        _check_range(sampling.temperature, 0.0, 100.0, f"{field}.temperature")
    if sampling.HasField("top_p"):
        _check_range(sampling.top_p, 0.0, 1.0, f"{field}.top_p", above=True)
    if sampling.HasField("top_k") and sampling.top_k < 0:
        raise invalid_field(f"{field}.top_k", f"must be at least 0 (0 is off), got {sampling.top_k}")
    for name in LATER_SAMPLING:
        if sampling.HasField(name):
            raise not_implemented(f"{field}.{name}", f"{name}")
    if sampling.logit_bias:
        raise not_implemented(f"{field}.logit_bias", "logit_bias")


def check_output_options(output: OutputOptions, field: str) -> None:
    """Refuse what this release does not return. Errors: ServiceError naming the sub-field of `field`."""
    if not 0 <= output.top_logprobs <= 20:
        raise invalid_field(f"{field}.top_logprobs", f"must be 0 to 20, got {output.top_logprobs}")
    for name in ("logprobs", "top_logprobs", "prompt_logprobs"):
        if getattr(output, name):
            raise not_implemented(f"{field}.{name}", name)


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


def check_scheduling(cache_salt: str, priority: int, prefix: str) -> None:
    """Refuse an over-long salt and any priority. Errors: ServiceError; `prefix` ends with "." unless empty."""
    if len(cache_salt.encode()) > MAX_CACHE_SALT_BYTES:
        raise invalid_field(f"{prefix}cache_salt", f"must be at most {MAX_CACHE_SALT_BYTES} bytes")
    if priority:
        raise not_implemented(f"{prefix}priority", "a priority other than 0")


def effective_sampling(sampling: SamplingParams, defaults: GenerationDefaults) -> SamplingParams:
    """What holds after all defaults (contract: Sampling): temperature, top_p and top_k are set, and the seed if given.

    A greedy result has temperature 0, top_p 1 and top_k 0.
    """
    effective = SamplingParams(temperature=_temperature(sampling, defaults), top_p=1.0, top_k=0)
    if effective.temperature > 0:
        for source in (defaults.sampling, sampling):
            if source.HasField("top_p"):
                effective.top_p = source.top_p
            if source.HasField("top_k"):
                effective.top_k = source.top_k
    if sampling.HasField("seed"):
        effective.seed = sampling.seed
    return effective


def unapplied_defaults(defaults: GenerationDefaults) -> list[str]:
    """Sampling fields that the model's own file sets and this release does not apply, as "name=value"."""
    off = {"min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    return [
        f"{name}={getattr(defaults.sampling, name):g}"
        for name in LATER_SAMPLING
        if defaults.sampling.HasField(name) and getattr(defaults.sampling, name) != off[name]
    ]


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
