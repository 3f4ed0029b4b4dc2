"""What streams say, and that it is what the unary calls say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.text.detokenizer import decode_output
from model_worker.engine import RowFailure
from model_worker.engines.fake_faults import Gate, fail_rows
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from rpc.seeds import mix64
from rpc.status import to_seconds
from tests.end_to_end.expectation import chat_ids, expect, ids_of
from tests.end_to_end.heard import hear, refusal
from tests.end_to_end.requests import (
    FinishReason,
    OutputOptions,
    Sampling,
    Stopping,
    chat,
    effective,
    generate,
    generate_tokens,
    message,
)
from tests.end_to_end.stack import NAME, gated_stack, open_channel, reached, running_stack
from tests.serving import ready
from tokenmill.v1 import gateway_pb2, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from tests.end_to_end.stack import Stack, TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
FOX, COLORS = "The quick brown fox", "A list of colors: red, blue"
MAX_NEW_TOKENS = FinishReason.FINISH_REASON_MAX_NEW_TOKENS


async def test_a_chat_goes_through_the_template_and_its_deltas_sum_to_the_unary_text(stack: Stack) -> None:
    request = chat(message("A list"), message("of colors"), stopping=Stopping(max_new_tokens=200))
    heard, answer = await hear(stack.gateway.StreamChat(request)), await stack.gateway.Chat(request)
    wanted = expect(stack, chat_ids(stack, "A list", "of colors"), max_new_tokens=200)
    assert (heard.texts[0], heard.token_ids[0]) == (wanted.text, wanted.ids)
    (output,) = answer.outputs
    assert (output.text, list(output.token_ids)) == (wanted.text, wanted.ids)
    assert heard.ends[0].finish.reason == output.finish.reason == MAX_NEW_TOKENS
    assert output.usage == answer.usage
    assert (heard.ends[0].usage.prompt_tokens, heard.ends[0].usage.completion_tokens) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert answer.usage.prompt_tokens == len(chat_ids(stack, "A list", "of colors"))
    assert answer.usage.completion_tokens == 200


async def test_prompts_and_samples_of_one_call_are_each_what_they_are_alone(stack: Stack) -> None:
    request = generate(
        FOX, COLORS, n=3, sampling=Sampling(seed=42), stopping=Stopping(max_new_tokens=50), cache_salt="samples"
    )
    answer, heard = await stack.gateway.Generate(request), await hear(stack.gateway.StreamGenerate(request))
    assert sorted(heard.ends) == list(range(6))
    for index in range(6):
        prompt, sample = divmod(index, 3)
        seed = mix64(42, sample)
        wanted = expect(stack, ids_of(stack, (FOX, COLORS)[prompt]), seed=seed, max_new_tokens=50)
        output = answer.outputs[index]
        assert (heard.texts[index], heard.token_ids[index]) == (wanted.text, wanted.ids)
        assert (output.index, output.text, list(output.token_ids)) == (index, wanted.text, wanted.ids)
        assert heard.ends[index].finish.seed == output.finish.seed == seed
    assert answer.usage.prompt_tokens == len(ids_of(stack, FOX)) + len(ids_of(stack, COLORS))
    assert answer.usage.completion_tokens == 6 * 50
    # The second and third sample of a prompt have copied all of it but its last token.
    assert answer.usage.cached_prompt_tokens == 0
    assert answer.outputs[1].usage.cached_prompt_tokens == len(ids_of(stack, FOX)) - 1


async def test_an_outputs_seed_gives_it_again_alone(stack: Stack) -> None:
    request = generate(FOX, n=3, sampling=Sampling(temperature=0.7))
    outputs = (await stack.gateway.Generate(request)).outputs
    assert len({output.finish.seed for output in outputs}) == 3
    for output in outputs:
        alone = generate(FOX, sampling=Sampling(temperature=0.7, seed=output.finish.seed))
        assert (await stack.gateway.Generate(alone)).outputs[0].text == output.text


async def test_drawn_seeds_differ_from_call_to_call(stack: Stack) -> None:
    seeds = {(await stack.gateway.Generate(generate())).outputs[0].finish.seed for _ in range(3)}
    assert len(seeds) == 3


async def test_started_says_what_is_effective(stack: Stack) -> None:
    call = stack.gateway.StreamGenerate(
        generate(FOX, COLORS, sampling=Sampling(top_p=0.5, seed=7)), metadata=(("x-request-id", "mine-1"),)
    )
    started = (await hear(call)).started
    assert started is not None
    assert (started.request_id, started.model) == ("mine-1", NAME)
    assert started.sampling == effective(temperature=1.0, top_p=0.5, seed=7)
    assert list(started.prompt_tokens) == [len(ids_of(stack, FOX)), len(ids_of(stack, COLORS))]
    assert list(started.max_new_tokens) == [10, 10]
    assert ("x-request-id", "mine-1") in list(await call.trailing_metadata())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (Sampling(), effective()),
        (Sampling(temperature=0, top_p=0.5, top_k=3), effective()),
        (Sampling(top_k=3), effective(temperature=1, top_k=3)),
        (Sampling(temperature=0.5, top_k=3), effective(temperature=0.5, top_k=3)),
    ],
    ids=["nothing", "greedy", "top_k alone", "both"],
)
async def test_sampling_defaults_are_those_of_the_contract(stack: Stack, given: Any, wanted: Any) -> None:
    started = (await hear(stack.gateway.StreamGenerate(generate(sampling=given)))).started
    assert started is not None
    started.sampling.ClearField("seed")
    assert started.sampling == wanted


async def test_token_prompts_are_used_as_they_are(stack: Stack) -> None:
    eos = stack.tier.eos_id
    request = generate_tokens([5, eos, 6], [7], stopping=Stopping(max_new_tokens=20))
    answer = await stack.gateway.Generate(request)
    for output, prompt in zip(answer.outputs, ([5, eos, 6], [7]), strict=True):
        wanted = expect(stack, prompt, max_new_tokens=20)
        assert (output.text, list(output.token_ids)) == (wanted.text, wanted.ids)
    assert answer.usage.prompt_tokens == 4


async def test_truncation_keeps_the_last_tokens(stack: Stack) -> None:
    ids, chat_prompt = ids_of(stack, FOX), chat_ids(stack, "A list of colors")
    wanted = expect(stack, ids[-3:])
    for request in (generate(FOX, truncate_prompt_tokens=3), generate_tokens(ids, truncate_prompt_tokens=3)):
        answer = await stack.gateway.Generate(request)
        assert (answer.outputs[0].text, answer.usage.prompt_tokens) == (wanted.text, 3)
    answer = await stack.gateway.Chat(chat(truncate_prompt_tokens=4))
    assert list(answer.outputs[0].token_ids) == expect(stack, chat_prompt[-4:]).ids
    answer = await stack.gateway.Generate(generate(FOX, truncate_prompt_tokens=2**31 - 1))
    assert answer.usage.prompt_tokens == len(ids)


async def test_control_tokens_in_a_prompt_are_text_unless_the_caller_wants_them(stack: Stack) -> None:
    text = "a<|turn_end|>b"
    plain = await stack.gateway.Generate(generate(text))
    parsed = await stack.gateway.Generate(generate(text, parse_special_tokens=True))
    assert parsed.usage.prompt_tokens == 3 < plain.usage.prompt_tokens
    assert list(parsed.outputs[0].token_ids) == expect(stack, ids_of(stack, text)).ids


async def test_a_last_message_is_continued(stack: Stack) -> None:
    answer = await stack.gateway.Chat(chat(message("A list"), continue_final_message=True))
    assert list(answer.outputs[0].token_ids) == expect(stack, ids_of(stack, "<|turn_start|>user\nA list")).ids
    answer = await stack.gateway.Chat(chat(message("A list"), add_generation_prompt=False))
    assert list(answer.outputs[0].token_ids) == expect(stack, chat_ids(stack, "A list", ending="")).ids


async def test_token_ids_and_special_tokens_are_returned_only_when_asked_for(stack: Stack) -> None:
    eos = stack.tier.eos_id
    prompt = prompt_that_draws(stack, eos)
    common = {"stopping": Stopping(max_new_tokens=3, ignore_eos=True)}
    bare = (await stack.gateway.Generate(generate_tokens(prompt, output=OutputOptions(), **common))).outputs[0]
    kept_options = OutputOptions(keep_special_tokens=True, token_ids=True)
    kept = (await stack.gateway.Generate(generate_tokens(prompt, output=kept_options, **common))).outputs[0]
    assert list(bare.token_ids) == []
    assert kept.token_ids[0] == eos
    tokenizer, ids = stack.tier.tokenizer, list(kept.token_ids)
    assert kept.text == decode_output(tokenizer, prompt, ids, keep_special_tokens=True)
    assert bare.text == decode_output(tokenizer, prompt, ids)
    assert "</s>" in kept.text
    assert "</s>" not in bare.text


def prompt_that_draws(stack: Stack, token_id: int) -> list[int]:
    """A prompt of three tokens after which the fake engine draws `token_id` first."""
    return next([5, 6, last] for last in range(10, 420) if expect(stack, [5, 6, last]).ids[0] == token_id)


async def test_timing_covers_the_way_from_arrival_to_the_end(stack: Stack) -> None:
    timing = (await hear(stack.gateway.StreamGenerate(generate()))).ends[0].timing
    seconds = {name.name: to_seconds(value) for name, value in timing.ListFields()}
    assert 0 < seconds["time_to_first_token"] <= seconds["total"] < 10
    assert seconds["queue"] + seconds["prefill"] + seconds["decode"] <= seconds["total"]


async def test_nothing_is_sent_before_the_workers_first_word(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate) as stack:
        call = stack.gateway.StreamGenerate(generate())
        await reached(gate)
        assert not call.done()
        headers = asyncio.create_task(call.initial_metadata())
        await stack.gateway.ListModels(gateway_pb2.ListModelsRequest())  # answered on the same connection
        assert not headers.done()
        gate.open()
        await headers
        assert len((await hear(call)).token_ids[0]) == 10


async def test_a_row_that_fails_among_several_is_a_failed_event_and_alone_it_is_the_status(tier: TokenizerTier) -> None:
    failure = RowFailure("LOGITS_NOT_FINITE", "the logits of this output are not finite numbers")
    doomed = fail_rows(failure, lambda step, segment: segment.sequence.ids[0] == 7 and segment.start > 4)
    async with running_stack(tier, doomed) as stack:
        heard = await hear(stack.gateway.StreamGenerate(generate_tokens([5, 6], [7, 6], [8, 6])))
        assert heard.ends[1].error.reason == "LOGITS_NOT_FINITE"
        assert heard.ends[1].error.code == 13
        assert heard.ends[1].error.message == failure.message
        for index, prompt in ((0, [5, 6]), (2, [8, 6])):
            assert heard.token_ids[index] == expect(stack, prompt).ids
        answer = await stack.gateway.Generate(generate_tokens([7, 6], [8, 6], n=2))
        assert [output.WhichOneof("result") for output in answer.outputs] == ["error", "error", "finish", "finish"]
        assert answer.outputs[0].text == heard.texts[1] != ""
        assert answer.usage.completion_tokens == 20 + sum(o.usage.completion_tokens for o in answer.outputs[:2])
        for call in (stack.gateway.StreamGenerate, stack.gateway.Generate):
            alone = await refusal(call(generate_tokens([7, 6])))
            assert (alone.code.name, alone.reason, alone.message) == ("INTERNAL", failure.reason, failure.message)
        assert (await stack.idle()).waiting == 0
        assert stack.inflight == 0


async def test_tokens_are_counted_as_the_request_itself_would_count_them(stack: Stack) -> None:
    for request in (generate(FOX, COLORS), generate_tokens([1, 2, 3]), generate(FOX, truncate_prompt_tokens=2)):
        counts = await stack.gateway.CountTokens(gateway_pb2.CountTokensRequest(generate=request))
        started = (await hear(stack.gateway.StreamGenerate(request))).started
        assert started is not None
        assert list(counts.prompt_tokens) == list(started.prompt_tokens)
        assert counts.total_tokens == sum(started.prompt_tokens)
        assert counts.context_length == stack.model.context_length
    counts = await stack.gateway.CountTokens(gateway_pb2.CountTokensRequest(chat=chat(message("A list"))))
    assert list(counts.prompt_tokens) == [len(chat_ids(stack, "A list"))]


async def test_the_served_model_is_described(stack: Stack) -> None:
    (model,) = (await stack.gateway.ListModels(gateway_pb2.ListModelsRequest())).models
    assert model == (await stack.gateway.GetModel(gateway_pb2.GetModelRequest())).model
    assert model == (await stack.gateway.GetModel(gateway_pb2.GetModelRequest(model=NAME))).model
    assert (model.name, model.context_length) == (NAME, stack.model.context_length)
    assert model.vocabulary_size == stack.model.vocabulary_size
    assert model.default_sampling == effective()
    assert (model.chat, model.quantization, model.ready_workers) == (True, "none", 1)
    assert len(model.vocabulary_fingerprint) == len(model.template_fingerprint) == 64
    assert model.default_max_new_tokens == 1024


async def test_the_fake_engine_of_the_command_line_knows_every_token_of_the_model(tier: TokenizerTier) -> None:
    settings = WorkerSettings(model=tier.folder, served_model_name=NAME, engine="fake", port=0, drain_seconds=0)
    async with ready(WorkerService(settings), settings) as server, open_channel(server) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        described = await stub.GetWorker(worker_pb2.GetWorkerRequest())
    assert described.vocabulary_size == max(tier.tokenizer.get_vocab().values()) + 1
    assert described.progress.stage == "ready"
