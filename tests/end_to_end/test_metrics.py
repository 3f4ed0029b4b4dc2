"""What the three services tell Prometheus of the requests that went through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rpc.metrics import text_of
from tests.end_to_end.requests import Stopping, generate
from tests.end_to_end.stack import NAME, Stack, TokenizerTier, running_stack

if TYPE_CHECKING:
    from tests.serving import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="session")
MARKER = "quixotic"
REQUESTS = 40


def told(server: RunningServer) -> dict[tuple[str, ...], float]:
    """By name and the values of labels, which the text sorts by their names."""
    families = text_string_to_metric_families(text_of(server.registry).decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_a_worker_tells_vllms_names(tier: TokenizerTier) -> None:
    async with running_stack(tier) as stack:
        before = told(stack.worker_server)
        for _ in range(2):  # the second one's prompt was computed by the first
            await stack.gateway.Generate(generate("The quick brown fox", "one", stopping=Stopping(max_new_tokens=6)))
        await stack.idle()
        now = told(stack.worker_server)
    prompt = now["vllm:prompt_tokens_total", NAME]
    assert now["vllm:generation_tokens_total", NAME] == 24
    assert now["vllm:request_success_total", "length", NAME] == 4
    assert now["vllm:prefix_cache_queries_total", NAME] == prompt > 0
    assert 0 < now["vllm:prefix_cache_hits_total", NAME] < prompt
    assert now["tokenmill_padding_tokens_total", NAME] > 0, "one prompt is longer than the other"
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_time_per_output_token"):
        assert now[f"vllm:{name}_seconds_count", NAME] == 4, name
    steps = now["tokenmill_steps_total", NAME] - before["tokenmill_steps_total", NAME]
    computed = now["tokenmill_step_tokens_total", NAME] - before["tokenmill_step_tokens_total", NAME]
    assert 12 <= steps <= computed
    assert now["vllm:inter_token_latency_seconds_count", NAME] == 4 * 5, "of six tokens the first has none before it"
    assert now["tokenmill_worker_max_rows", NAME] >= 4
    assert now["vllm:num_requests_running", NAME] == now["vllm:num_requests_waiting", NAME] == 0


async def test_a_gateway_tells_what_it_sent_and_how_long_turns_took(tier: TokenizerTier) -> None:
    async with running_stack(tier) as stack:
        for _ in range(2):
            await stack.gateway.Generate(generate("The quick brown fox", "one"))
        gateway, worker = told(stack.gateway_server), told(stack.worker_server)
    padding = gateway["tokenmill_sent_padding_tokens_total", NAME]
    assert padding == worker["tokenmill_padding_tokens_total", NAME] > 0
    assert gateway["tokenmill_sent_tokens_total", NAME] - padding == worker["vllm:prompt_tokens_total", NAME]
    assert gateway["tokenmill_queue_seconds_count", NAME] == 2
    assert gateway["tokenmill_requests_waiting", NAME] == 0
    assert gateway["tokenmill_waiting_tokens_limit", NAME] > 0


async def test_a_tokenizer_service_tells_of_its_tokens_and_calls(tier: TokenizerTier) -> None:
    async with running_stack(tier) as stack:
        before = told(tier.server)
        answer = await stack.gateway.Generate(generate("The quick brown fox"))
        now = told(tier.server)
    encoded = ("tokenmill_encoded_tokens_total", NAME)
    assert now[encoded] - before.get(encoded, 0) == answer.usage.prompt_tokens
    call = ("tokenmill_call_seconds_count", "/tokenmill.v1.TokenizerService/Encode")
    assert now[call] - before.get(call, 0) == 1
    assert now["tokenmill_encoding_waiting",] == 0


async def test_nothing_of_a_caller_is_in_them(tier: TokenizerTier) -> None:
    """Whatever callers write, there are no more samples than before, and no word of theirs."""
    async with running_stack(tier) as stack:
        servers = (stack.gateway_server, stack.worker_server, tier.server)
        await ask(stack, 0)
        before = [told(server).keys() for server in servers]
        for number in range(1, REQUESTS):
            await ask(stack, number)
        assert [told(server).keys() for server in servers] == before
        assert not any(MARKER in text_of(server.registry).decode() for server in servers)


async def ask(stack: Stack, number: int) -> None:
    """A request that is answered, and one for a model that nobody serves."""
    text = f"{MARKER} {number}"
    metadata = (("x-tenant-id", text.replace(" ", "-")), ("x-request-id", f"{MARKER}-{number}"))
    await stack.gateway.Generate(generate(text, cache_salt=text), metadata=metadata)
    with pytest.raises(Exception, match="NOT_FOUND"):
        await stack.gateway.Generate(generate(text, model=text), metadata=metadata)
