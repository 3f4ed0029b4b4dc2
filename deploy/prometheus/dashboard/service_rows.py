"""The rows on services: what they hold, how they fail, their processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expressions import HERE, MODEL, RATE, of_service, quantiles, rate, share
from panel import Panel

ENCODE = 'method="/tokenmill.v1.TokenizerService/Encode"'
WAITING = f"tokenmill_requests_waiting{{{MODEL}}} / tokenmill_requests_waiting_limit{{{MODEL}}}"
WAITING_TOKENS = f"tokenmill_waiting_tokens{{{MODEL}}} / tokenmill_waiting_tokens_limit{{{MODEL}}}"
PROCESS = "{{service}} {{instance}}"

SERVICES: Mapping[str, Sequence[Panel]] = {
    "Capacity": (
        Panel(
            "Requests now",
            "Worked on, and waiting in gateways. KEDA scales workers by those that wait.",
            "short",
            {
                "{{model_name}} running": f"sum by (model_name) (tokenmill_requests_running{{{MODEL}}})",
                "{{model_name}} waiting": f"sum by (model_name) (tokenmill_requests_waiting{{{MODEL}}})",
            },
        ),
        Panel(
            "How full queues are",
            "At the fullest gateway, by requests and by tokens. What does not fit is refused.",
            "percentunit",
            {
                "{{model_name}} requests": f"max by (model_name) ({WAITING})",
                "{{model_name}} tokens": f"max by (model_name) ({WAITING_TOKENS})",
            },
            most=1,
        ),
        Panel(
            "Batch occupancy",
            "Rows that are computed, of those that workers compute at once.",
            "percentunit",
            {
                "{{model_name}}": f'max by (model_name) (tokenmill_rows{{{MODEL}, state="running"}})'
                f" / max by (model_name) (tokenmill_rows_limit{{{MODEL}}})",
                "{{model_name}} {{instance}}": f"vllm:num_requests_running{{{MODEL}}}"
                f" / tokenmill_worker_max_rows{{{MODEL}}}",
            },
            most=1,
        ),
        Panel(
            "K/V memory",
            "In use by rows that run. Full, with rows that wait: TokenmillKvMemoryFull.",
            "percentunit",
            {
                "{{model_name}}": f"max by (model_name) (tokenmill_kv_tokens_used{{{MODEL}}})"
                f" / max by (model_name) (tokenmill_kv_tokens_capacity{{{MODEL}}})",
                "{{model_name}} {{instance}}": f"vllm:kv_cache_usage_perc{{{MODEL}}}",
            },
            most=1,
        ),
        Panel(
            "Prefix hits",
            "Tokens of prompts that were reused instead of computed.",
            "percentunit",
            {"{{model_name}}": share("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")},
            most=1,
        ),
        Panel(
            "Tokens per step",
            "Of prompts and outputs, on average: how full batches are.",
            "short",
            {"{{model_name}}": share("tokenmill_step_tokens_total", "tokenmill_steps_total")},
        ),
        Panel(
            "Padding",
            "Of the tokens that gateways send: what fills rows up to the longest one. It is sent, never computed.",
            "percentunit",
            {"{{model_name}}": share("tokenmill_sent_padding_tokens_total", "tokenmill_sent_tokens_total")},
        ),
        Panel(
            "Preemptions",
            "Rows that give way to older ones, and are computed again.",
            "ops",
            {"{{model_name}} {{instance}}": rate("vllm:num_preemptions_total", "model_name, instance")},
        ),
    ),
    "Workers and failover": (
        Panel(
            "Workers",
            "As the gateway that sees most has it. Refused: another vocabulary than the tokenizer service's.",
            "short",
            {"{{model_name}} {{state}}": f"max by (model_name, state) (tokenmill_workers{{{MODEL}}})"},
        ),
        Panel(
            "Attempts after a lost one",
            "Requests that went on at another worker, and calls made of another tokenizer service.",
            "reqps",
            {"{{tier}}": rate("tokenmill_retries_total", "tier", HERE)},
        ),
        Panel(
            "Open breakers",
            "Who has failed again and again, and not answered since.",
            "short",
            {"{{tier}}": f"max by (tier) (tokenmill_breakers_open{{{HERE}}})"},
        ),
        Panel(
            "Rows at workers",
            "As gateways see them.",
            "short",
            {"{{model_name}} {{state}}": f"max by (model_name, state) (tokenmill_rows{{{MODEL}}})"},
        ),
        Panel(
            "Rows that failed in the engine",
            "By reason; the other rows of a batch go on.",
            "ops",
            {"{{model_name}} {{reason}}": rate("tokenmill_failed_rows_total", "model_name, reason")},
        ),
    ),
    "Tokenizer": (
        Panel(
            "Tokenizer services",
            "That are ready, as the gateway that sees most has it.",
            "short",
            {"ready": f"max by (namespace) (tokenmill_tokenizers_ready{{{HERE}}})"},
        ),
        Panel(
            "Time of a call",
            "Of Encode: chat template and tokenizing, with the wait for a thread.",
            "s",
            quantiles("tokenmill_call_seconds", "", f"{HERE}, {ENCODE}"),
        ),
        Panel(
            "Calls",
            "Of the tokenizer services, by status.",
            "reqps",
            {"{{code}}": rate("tokenmill_calls_total", "code", f'{HERE}, method=~"/tokenmill.v1.TokenizerService/.*"')},
            stacked=True,
        ),
        Panel(
            "Tokens of prompts",
            "Encoded, with those that were only counted.",
            "ops",
            {"{{model_name}}": rate("tokenmill_encoded_tokens_total", "model_name")},
        ),
        Panel(
            "Texts that wait",
            "For a thread.",
            "short",
            {"{{instance}}": f"tokenmill_encoding_waiting{{{HERE}}}"},
        ),
    ),
    "Processes": (
        Panel(
            "Ready",
            "Of each service: how many take calls, how many shut down.",
            "short",
            {
                "{{service}} ready": f"sum by (service) (tokenmill_ready{{{HERE}}})",
                "{{service}} draining": f"sum by (service) (tokenmill_draining{{{HERE}}})",
            },
        ),
        Panel(
            "Versions",
            "How many run of each.",
            "short",
            {"{{service}} {{version}}": f"count by (service, version) (tokenmill_build_info{{{HERE}}})"},
            stacked=True,
        ),
        Panel(
            "Event loop lag",
            "How late whoever waits is woken, 99th percentile.",
            "s",
            {
                "{{instance}}": "histogram_quantile(0.99, "
                + rate("tokenmill_event_loop_lag_seconds_bucket", "instance, le", HERE)
                + ")"
            },
        ),
        Panel(
            "Processor",
            "Cores in use.",
            "short",
            {PROCESS: of_service(f"rate(process_cpu_seconds_total{{{HERE}}}[{RATE}])")},
        ),
        Panel(
            "Memory",
            "Resident.",
            "bytes",
            {PROCESS: of_service(f"process_resident_memory_bytes{{{HERE}}}")},
        ),
        Panel(
            "Open files",
            "Connections among them, of those that are allowed.",
            "percentunit",
            {PROCESS: of_service(f"process_open_fds{{{HERE}}} / process_max_fds{{{HERE}}}")},
        ),
        Panel(
            "Age",
            "Since the start of the process.",
            "s",
            {PROCESS: of_service(f"(time() - process_start_time_seconds{{{HERE}}})")},
        ),
        Panel(
            "Certificates",
            "Time left of what each process shows others.",
            "s",
            {"{{instance}} {{certificate}}": f"tokenmill_certificate_expiry_timestamp_seconds{{{HERE}}} - time()"},
        ),
    ),
}
