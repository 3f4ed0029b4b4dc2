"""The rows on requests: how many, how they end, how long they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expressions import HERE, MODEL, RATE, mean, of_gateway, quantiles, rate
from panel import Panel

ERRORS = f"rate(tokenmill_call_errors_total{{{HERE}}}[{RATE}])"
CREDENTIALS = ERRORS.replace(
    HERE, f'{HERE}, reason=~".*_CREDENTIALS|MODEL_NOT_ALLOWED|CREDENTIAL_LIMIT|CLIENT_NOT_ACCEPTED"'
)

REQUESTS: Mapping[str, Sequence[Panel]] = {
    "Traffic and errors": (
        Panel(
            "Requests",
            "That have ended, by gRPC's name of their status, over gRPC and HTTP.",
            "reqps",
            {"{{code}}": rate("tokenmill_requests_total", "code")},
            stacked=True,
        ),
        Panel(
            "Failed requests",
            "For a reason of ours, of all. The objective is 0.5 %; alerts look at both times.",
            "percentunit",
            {
                "{{model_name}}, 5 min": f"tokenmill:failed_requests:ratio5m{{{MODEL}}}",
                "{{model_name}}, 1 h": f"tokenmill:failed_requests:ratio1h{{{MODEL}}}",
            },
        ),
        Panel(
            "Errors by reason",
            "What gateways' callers are told; the contract has the reasons.",
            "reqps",
            {"{{reason}}": of_gateway(ERRORS, "reason")},
            stacked=True,
        ),
        Panel(
            "Refused credentials",
            "Calls refused for what they show: none, a wrong one, an expired one, one for other models.",
            "reqps",
            {"{{reason}}": of_gateway(CREDENTIALS, "reason")},
            stacked=True,
        ),
        Panel(
            "Outputs",
            "By why they ended. A request has one or several.",
            "ops",
            {"{{finish_reason}}": rate("tokenmill_outputs_total", "finish_reason")},
            stacked=True,
        ),
        Panel(
            "Tokens",
            "Of requests that have ended. Reused: of prompts, what a worker had computed before.",
            "ops",
            {
                "{{model_name}} prompt": rate("tokenmill_prompt_tokens_total", "model_name"),
                "{{model_name}} reused": rate("tokenmill_cached_prompt_tokens_total", "model_name"),
                "{{model_name}} generated": rate("tokenmill_completion_tokens_total", "model_name"),
            },
        ),
    ),
    "Latency": (
        Panel(
            "Time to first token",
            "From a request's arrival at the gateway. TokenmillFirstTokenSlow looks at the 99th percentile.",
            "s",
            quantiles("tokenmill_time_to_first_token_seconds"),
        ),
        Panel(
            "Time between tokens",
            "From a token of a row to its next, at workers.",
            "s",
            quantiles("vllm:inter_token_latency_seconds"),
        ),
        Panel(
            "Time in the queue",
            "From a request's arrival at the gateway to its turn. What is refused does not count.",
            "s",
            quantiles("tokenmill_queue_seconds"),
        ),
        Panel(
            "Time per output token",
            "Of whole outputs after their first token, as their callers have it.",
            "s",
            quantiles("tokenmill_time_per_output_token_seconds"),
        ),
        Panel("Whole requests", "That ended well, from arrival to end.", "s", quantiles("tokenmill_request_seconds")),
        Panel(
            "Where a row's time goes",
            "At workers, on average: waiting for a place, computing the prompt, generating.",
            "s",
            {
                "{{model_name}} queue": mean("vllm:request_queue_time_seconds"),
                "{{model_name}} prefill": mean("vllm:request_prefill_time_seconds"),
                "{{model_name}} decode": mean("vllm:request_decode_time_seconds"),
            },
        ),
    ),
}
