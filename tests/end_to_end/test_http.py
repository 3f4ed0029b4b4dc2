"""OpenAI's API over HTTP: the shapes of answers and streams, and every kind of refusal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from model_worker.engines.fake_faults import Gate
from tests.end_to_end import requests
from tests.end_to_end.http import (
    CHAT,
    COMPLETIONS,
    HTTP,
    RESPONSES,
    chat,
    completion,
    http_client,
    http_stack,
    posted,
    same,
    streamed,
)
from tests.end_to_end.stack import NAME, Stack, TokenizerTier, gated_stack, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tier: TokenizerTier) -> AsyncIterator[tuple[Stack, httpx2.AsyncClient]]:
    async with http_stack(tier) as both:
        yield both


@pytest.fixture
def client(running: tuple[Stack, httpx2.AsyncClient]) -> httpx2.AsyncClient:
    return running[1]


class TestChat:
    async def test_an_answer_has_openais_shape(self, client: httpx2.AsyncClient) -> None:
        response = await client.post(CHAT, json=chat(), headers={"x-request-id": "order-66"})
        assert response.headers["x-request-id"] == "order-66"
        answer = response.json()
        assert (answer["id"], answer["object"], answer["model"]) == ("chatcmpl-order-66", "chat.completion", NAME)
        [choice] = answer["choices"]
        assert choice["message"]["role"] == "assistant"
        assert (choice["finish_reason"], choice["stop_reason"], choice["logprobs"]) == ("length", None, None)
        usage = answer["usage"]
        assert usage["completion_tokens"] == 10
        assert usage["total_tokens"] == usage["prompt_tokens"] + 10

    async def test_a_stream_begins_with_the_role_and_ends_with_done(self, client: httpx2.AsyncClient) -> None:
        *chunks, done = await streamed(client, CHAT, chat(n=2))
        assert done == "[DONE]"
        assert [chunk["choices"][0]["delta"] for chunk in chunks[:2]] == [{"role": "assistant", "content": ""}] * 2
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert all("usage" not in chunk for chunk in chunks)
        whole = await posted(client, CHAT, chat(n=2))
        for index in range(2):
            own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
            text = "".join(choice["delta"].get("content", "") for choice in own)
            assert text == whole["choices"][index]["message"]["content"]
            assert [choice["finish_reason"] for choice in own][-1] == "length"
            assert all(choice["finish_reason"] is None for choice in own[:-1])

    async def test_usage_comes_last_if_asked_for(self, client: httpx2.AsyncClient) -> None:
        *chunks, last, _ = await streamed(client, CHAT, chat(stream_options={"include_usage": True}))
        assert all(chunk["usage"] is None for chunk in chunks)
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == 10

    async def test_logprobs_are_of_the_tokens_with_their_bytes_and_alternatives(
        self, client: httpx2.AsyncClient
    ) -> None:
        body = chat(logprobs=True, top_logprobs=3)
        [choice] = (await posted(client, CHAT, body))["choices"]
        content = choice["logprobs"]["content"]
        assert len(content) == 10
        assert b"".join(bytes(one["bytes"]) for one in content).decode(errors="replace") == choice["message"]["content"]
        assert all(len(one["top_logprobs"]) == 3 for one in content)
        chunks = (await streamed(client, CHAT, body))[:-1]
        told = [one for chunk in chunks for one in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
        assert told == content

    async def test_the_newer_name_of_the_bound_goes_before_the_older(self, client: httpx2.AsyncClient) -> None:
        answer = await posted(client, CHAT, chat(max_tokens=9, max_completion_tokens=4))
        assert answer["usage"]["completion_tokens"] == 4

    async def test_parts_of_a_content_are_lines_of_one_text(self, client: httpx2.AsyncClient) -> None:
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        assert await same(client, CHAT, chat(parts), chat("one\ntwo"))

    async def test_a_stop_string_ends_the_answer_and_is_named(self, client: httpx2.AsyncClient) -> None:
        text = (await posted(client, CHAT, chat()))["choices"][0]["message"]["content"]
        stop = text[3:5]
        [choice] = (await posted(client, CHAT, chat(stop=stop)))["choices"]
        assert choice["message"]["content"] == text[: text.index(stop)]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)

    async def test_unknown_fields_are_let_pass_and_null_is_nothing(self, client: httpx2.AsyncClient) -> None:
        extra = {"never_heard_of": {"it": 1}, "tools": None, "stop": None, "response_format": {"type": "text"}}
        assert await same(client, CHAT, chat(**extra), chat())


class TestCompletions:
    async def test_several_prompts_and_samples_have_a_choice_each(self, client: httpx2.AsyncClient) -> None:
        answer = await posted(client, COMPLETIONS, completion(["The quick", "A list"], n=2, seed=3))
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        assert answer["object"] == "text_completion"
        assert answer["usage"]["completion_tokens"] == 40

    async def test_token_ids_are_a_prompt_too(self, client: httpx2.AsyncClient) -> None:
        tokens = (await posted(client, "/tokenize", {"prompt": "The quick brown fox"}))["tokens"]
        assert await same(client, COMPLETIONS, completion(tokens), completion())
        assert await same(client, COMPLETIONS, completion([tokens, tokens]), completion(["The quick brown fox"] * 2))

    @pytest.mark.parametrize("as_tokens", [False, True])
    async def test_echo_tells_the_prompt_first(self, client: httpx2.AsyncClient, as_tokens: bool) -> None:
        text = (await posted(client, COMPLETIONS, completion()))["choices"][0]["text"]
        prompt = "The quick brown fox"
        tokens = (await posted(client, "/tokenize", {"prompt": prompt}))["tokens"]
        body = completion(tokens if as_tokens else prompt, echo=True, logprobs=1)
        [choice] = (await posted(client, COMPLETIONS, body))["choices"]
        assert choice["text"] == prompt + text
        columns = choice["logprobs"]
        assert "".join(columns["tokens"][: len(tokens)]) == prompt
        assert len(columns["tokens"]) == len(tokens) + 10
        assert columns["token_logprobs"][0] is None
        assert all(isinstance(one, float) for one in columns["token_logprobs"][1:])
        before = ["".join(columns["tokens"][:place]) for place in range(len(columns["tokens"]))]
        assert columns["text_offset"] == [len(one) for one in before]
        chunks = (await streamed(client, COMPLETIONS, body))[:-1]
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == prompt + text
        told = [one for chunk in chunks for one in (chunk["choices"][0]["logprobs"] or {"tokens": []})["tokens"]]
        assert told == columns["tokens"]


class TestResponses:
    async def test_a_response_is_one_message(self, client: httpx2.AsyncClient) -> None:
        answer = await posted(client, RESPONSES, {"model": NAME, "input": "A list of colors", "max_output_tokens": 10})
        chatted = await posted(client, CHAT, chat())
        [item] = answer["output"]
        assert item["content"][0]["text"] == chatted["choices"][0]["message"]["content"]
        assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert answer["usage"]["output_tokens"] == 10

    async def test_an_input_of_a_million_characters_is_read_like_any_other(self, client: httpx2.AsyncClient) -> None:
        response = await client.post(RESPONSES, json={"input": "x" * 10**6, "max_output_tokens": 1})
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")

    async def test_instructions_are_the_system_message(self, client: httpx2.AsyncClient) -> None:
        body = {"input": [{"role": "user", "content": "hello"}], "instructions": "be brief", "max_output_tokens": 5}
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
        answer = await posted(client, RESPONSES, body)
        chatted = await posted(client, CHAT, {"messages": messages, "max_tokens": 5})
        assert answer["output"][0]["content"][0]["text"] == chatted["choices"][0]["message"]["content"]

    async def test_a_stream_numbers_its_events_and_ends_with_the_response(self, client: httpx2.AsyncClient) -> None:
        events = await streamed(client, RESPONSES, {"input": "A list of colors", "max_output_tokens": 10})
        assert [one["sequence_number"] for one in events] == list(range(len(events)))
        kinds = [one["type"] for one in events]
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-4:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ]
        text = "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == text


class TestBeside:
    async def test_models_are_listed_and_found(self, client: httpx2.AsyncClient) -> None:
        [model] = (await client.get("/v1/models")).json()["data"]
        assert (model["id"], model["object"]) == (NAME, "model")
        assert (await client.get(f"/v1/models/{NAME}")).json() == model
        assert (await client.get("/v1/models/org/other")).status_code == 404

    async def test_tokens_are_those_of_a_request_and_lead_back_to_the_text(self, client: httpx2.AsyncClient) -> None:
        told = await posted(client, "/tokenize", {"prompt": "The quick brown fox"})
        usage = (await posted(client, COMPLETIONS, completion()))["usage"]
        assert told["count"] == len(told["tokens"]) == usage["prompt_tokens"]
        text = (await posted(client, "/detokenize", {"tokens": told["tokens"]}))["prompt"]
        assert text == "The quick brown fox"
        chatted = await posted(client, "/tokenize", {"messages": chat()["messages"]})
        assert chatted["count"] == (await posted(client, CHAT, chat()))["usage"]["prompt_tokens"]

    async def test_health_readiness_and_version(self, client: httpx2.AsyncClient) -> None:
        for path in ("/health", "/ready", "/version"):
            assert (await client.get(path)).status_code == 200


class TestMetrics:
    async def test_requests_of_both_protocols_are_counted(self, tier: TokenizerTier) -> None:
        async with http_stack(tier) as (stack, own):
            await posted(own, CHAT, chat(max_tokens=7))
            await stack.gateway.Chat(requests.chat())
            assert (await own.post(CHAT, json=chat(model='\n"other'))).status_code == 404
            response = await own.get("/metrics")
            assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            lines = response.text.splitlines()
            assert f'tokenmill_requests_total{{code="OK",model_name="{NAME}"}} 2.0' in lines
            assert 'tokenmill_requests_total{code="NOT_FOUND",model_name=""} 1.0' in lines
            assert f'tokenmill_completion_tokens_total{{model_name="{NAME}"}} 17.0' in lines
            assert f'tokenmill_workers{{model_name="{NAME}",state="ready"}} 1.0' in lines
            assert f'tokenmill_requests_running{{model_name="{NAME}"}} 0.0' in lines

    async def test_what_callers_call_a_method_or_a_path_is_no_label(self, tier: TokenizerTier) -> None:
        async with http_stack(tier) as (_, own):
            for number in range(3):
                for path in (CHAT, f"/made-up-{number}"):
                    assert (await own.request(f"MADE{number}", path)).status_code in {404, 405}
            text = (await own.get("/metrics")).text
            assert f'tokenmill_calls_total{{code="UNIMPLEMENTED",method="OTHER {CHAT}"}} 3.0' in text
            assert 'tokenmill_calls_total{code="NOT_FOUND",method="OTHER unknown"} 3.0' in text
            assert "MADE" not in text
            assert "made-up" not in text


class TestPages:
    async def test_the_page_loads_nothing_from_elsewhere(self, client: httpx2.AsyncClient) -> None:
        for path in ("/", "/docs"):
            response = await client.get(path)
            assert response.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert "https://" not in response.text

    async def test_workers_are_shown_without_their_addresses(self, client: httpx2.AsyncClient) -> None:
        response = await client.get("/workers")
        [worker] = response.json()["workers"]
        assert (worker["ready"], worker["models"], worker["running"]) == (True, [NAME], 0)
        assert "127.0.0.1" not in response.text

    async def test_the_api_is_described(self, client: httpx2.AsyncClient) -> None:
        described = (await client.get("/openapi.json")).json()
        assert {CHAT, COMPLETIONS, RESPONSES} <= described["paths"].keys()
        assert "temperature" in described["components"]["schemas"]["ChatBody"]["properties"]

    async def test_the_page_can_be_switched_off(self, tier: TokenizerTier) -> None:
        async with http_stack(tier, gateway={"page": False}) as (_, own):
            assert [(await own.get(path)).status_code for path in ("/", "/workers", "/docs")] == [404, 404, 200]


def at(field: str | None, status: int = 400) -> tuple[int, str | None]:
    return status, field


REFUSALS: list[tuple[str, Any, tuple[int, str | None]]] = [
    (CHAT, chat(messages=[]), at("messages")),
    (CHAT, chat(messages=[{"role": "wizard", "content": ""}]), at("messages[0].role")),
    (CHAT, chat([{"type": "image_url", "image_url": {"url": "x"}}]), at("messages[0].content[0].type")),
    (CHAT, chat(messages=[{"role": "user", "content": 5}]), at("messages[0].content")),
    (CHAT, chat(max_tokens=0), at("max_tokens")),
    (CHAT, chat(max_completion_tokens=-1), at("max_completion_tokens")),
    (CHAT, chat(max_tokens=2**40), at("max_tokens")),
    (CHAT, chat(max_tokens="5"), at("max_tokens")),
    (CHAT, chat(temperature=-1), at("temperature")),
    (CHAT, chat(top_p=0), at("top_p")),
    (CHAT, chat(top_logprobs=3), at("top_logprobs")),
    (CHAT, chat(logprobs=True, top_logprobs=21), at("top_logprobs")),
    (CHAT, chat(min_tokens=11), at("min_tokens")),
    (CHAT, chat(stop=["a"] * 9), at("stop")),
    (CHAT, chat(stop=["a", ""]), at("stop[1]")),
    (CHAT, chat(n=65), at("n")),
    (CHAT, chat(seed=2**64), at("seed")),
    (CHAT, chat(logit_bias={"five": 1}), at("logit_bias")),
    (CHAT, chat(logit_bias={"5": 101}), at("logit_bias")),
    (CHAT, chat(priority=11), at("priority")),
    (CHAT, chat(tools=[{"type": "function"}]), at("tools")),
    (CHAT, chat(response_format={"type": "json_object"}), at("response_format")),
    (CHAT, chat(stream_options={"include_usage": True}), at("stream_options")),
    (CHAT, chat(chat_template_kwargs={"x": 10**400}), at("chat_template_kwargs")),
    (CHAT, chat(model="other"), at("model", 404)),
    (COMPLETIONS, completion([]), at("prompt")),
    (COMPLETIONS, completion(""), at("prompt[0]")),
    (COMPLETIONS, completion(["x", ""]), at("prompt[1]")),
    (COMPLETIONS, completion([10**6]), at("prompt[0].ids")),
    (COMPLETIONS, completion(logprobs=21), at("logprobs")),
    (COMPLETIONS, completion(echo=True, logprobs=1, n=2), at("n")),
    (COMPLETIONS, completion(suffix="x"), at("suffix")),
    (RESPONSES, {"input": []}, at("input")),
    (RESPONSES, {"input": [{"role": "wizard", "content": ""}]}, at("input[0].role")),
    (RESPONSES, {"input": "x", "previous_response_id": "resp_1"}, at("previous_response_id")),
    (RESPONSES, {"input": [{"type": "function_call"}]}, at("input[0].type")),
    ("/tokenize", {}, at("prompt")),
    ("/detokenize", {"tokens": [-1]}, at("tokens[0]")),
]


class TestRefusals:
    @pytest.mark.parametrize(("path", "body", "wanted"), REFUSALS)
    async def test_bad_input_names_the_callers_field(
        self, client: httpx2.AsyncClient, path: str, body: Any, wanted: tuple[int, str | None]
    ) -> None:
        response = await client.post(path, json=body)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == wanted, error
        assert error["message"]

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"messages": "\\ud800"}', b"\xff", b"NaN"])
    async def test_what_is_no_request_is_refused(self, client: httpx2.AsyncClient, raw: bytes) -> None:
        response = await client.post(CHAT, content=raw)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"

    @pytest.mark.parametrize("part", [b"[],", b"1,"])
    async def test_a_body_of_too_many_parts_is_not_read(self, client: httpx2.AsyncClient, part: bytes) -> None:
        body = b'{"prompt":[' + part * 2_000_000 + b"[]]}"
        response = await client.post(COMPLETIONS, content=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "body")

    @pytest.mark.parametrize(
        ("path", "body", "field"),
        [
            (CHAT, chat(logit_bias={str(number): "x" for number in range(300_000)}), "logit_bias"),
            (CHAT, chat(messages=[{"role": "user"}] * 100_000), "messages"),
            (RESPONSES, {"input": [{"role": "user"}] * 100_000}, "input"),
        ],
    )
    async def test_lists_and_tables_are_bounded(
        self, client: httpx2.AsyncClient, path: str, body: Any, field: str
    ) -> None:
        error = (await client.post(path, json=body)).json()["error"]
        assert error["param"] == field
        assert "at most" in error["message"]

    async def test_a_prompt_that_is_too_long_has_openais_code(self, client: httpx2.AsyncClient) -> None:
        response = await client.post(CHAT, json=chat("word " * 20_000))
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"

    async def test_a_body_that_is_too_large_is_not_read(self, client: httpx2.AsyncClient) -> None:
        response = await client.post(CHAT, content=b"x" * (9 * 2**20))
        assert response.status_code == 413

    async def test_paths_and_methods_that_there_are_not(self, client: httpx2.AsyncClient) -> None:
        assert (await client.get("/v1/nothing")).status_code == 404
        assert (await client.get(CHAT)).status_code == 405
        assert (await client.post("/health")).status_code == 405

    async def test_a_stream_that_is_refused_has_a_status_of_its_own(self, client: httpx2.AsyncClient) -> None:
        response = await client.post(CHAT, json=chat(stream=True, model="other"))
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"


async def test_who_is_refused_for_lack_of_room_is_told_when_to_come_back(tier: TokenizerTier) -> None:
    gate = Gate()
    small = HTTP | {"max_inflight": 1, "max_queue": 0}
    async with gated_stack(tier, gate, gateway=small) as stack, http_client(stack) as client:
        first = asyncio.create_task(posted(client, CHAT, chat()))
        await reached(gate)
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        gate.open()
        await first


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_caller_that_goes_away_stops_its_generation(tier: TokenizerTier, is_stream: bool) -> None:
    gate = Gate()
    async with gated_stack(tier, gate, gateway=HTTP) as stack, http_client(stack) as client:
        asking = asyncio.create_task(client.post(CHAT, json=chat(max_tokens=10_000, stream=is_stream)))
        await reached(gate)
        asking.cancel()
        await asyncio.wait({asking})
        gate.open()
        await stack.idle()
        assert stack.inflight == 0
