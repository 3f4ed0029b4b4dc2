"""Bad input at the worker and at the tokenizer service, whose callers need not be gateways."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from rpc.token_tensors import pack_tensor
from tests.end_to_end.heard import Refusal, refusal
from tests.end_to_end.requests import Sampling, message
from tests.end_to_end.stack import NAME, open_channel
from tests.end_to_end.worker_calls import Request, ask, hear_rows, start
from tokenmill.v1 import gateway_pb2, generation_pb2, tokenizer_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.end_to_end.stack import Stack, TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
CODE = grpc.StatusCode
Tensor = generation_pb2.TokenTensor
Row = worker_pb2.RowParams
EncodeRequest = tokenizer_pb2.EncodeRequest


async def refused(stack: Stack, call: Any) -> Refusal:
    """The worker's refusal; it has computed nothing, and answers the next request."""
    before = (await stack.idle()).step
    heard = await refusal(call)
    assert (await stack.idle()).step == before, "something was computed"
    assert len((await hear_rows(ask(stack, start(stack, [[1, 2, 3]])))).ids[0]) == 10
    return heard


def tensor(ids: bytes = b"\1\0\0\0" * 4, mask: bytes = b"", rows: int = 2, width: int = 2) -> Tensor:
    return Tensor(rows=rows, width=width, input_ids=ids, attention_mask=mask)


TENSORS: dict[str, tuple[Tensor, str]] = {
    "no tensor": (Tensor(), "rows"),
    "no rows": (tensor(b"", rows=0), "rows"),
    "no width": (tensor(b"", width=0), "width"),
    "bytes missing": (tensor(b"\1\0\0\0" * 3), "input_ids"),
    "bytes left over": (tensor(b"\1\0\0\0" * 4 + b"\1"), "input_ids"),
    "rows x width beyond any number": (tensor(rows=2**32 - 1, width=2**32 - 1), "input_ids"),
    "mask of another size": (tensor(mask=b"\1\1\1"), "attention_mask"),
    "mask of another value": (tensor(mask=b"\1\1\2\1"), "attention_mask"),
    "padding on the right": (tensor(mask=b"\1\0\1\1"), "attention_mask"),
    "a row of padding": (tensor(mask=b"\0\0\1\1"), "attention_mask"),
    "an id outside the vocabulary": (tensor(b"\1\0\0\0" * 3 + b"\0\0\1\0"), "input_ids"),
    "an id below 0": (tensor(b"\1\0\0\0" * 3 + b"\xff\xff\xff\xff"), "input_ids"),
}


@pytest.mark.parametrize("name", TENSORS)
async def test_a_worker_checks_each_rule_of_a_tensor(stack: Stack, name: str) -> None:
    tokens, field = TENSORS[name]
    heard = await refused(stack, ask(stack, start(stack, [[1], [1]], tokens=tokens)))
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, f"start.tokens.{field}")


async def test_an_id_outside_the_vocabulary_under_the_padding_harms_nobody(stack: Stack) -> None:
    tokens = tensor(b"\xff\xff\xff\x7f" + b"\1\0\0\0" * 3, mask=b"\0\1\1\1")
    heard = await hear_rows(ask(stack, start(stack, [[1], [1, 1]], tokens=tokens)))
    assert heard.ids == (await hear_rows(ask(stack, start(stack, [[1], [1, 1]])))).ids


ROWS: dict[str, tuple[Row, str]] = {
    "max_new_tokens 0": (Row(max_new_tokens=0), "max_new_tokens"),
    "min over max": (Row(max_new_tokens=1, min_new_tokens=2), "min_new_tokens"),
    "min below 0": (Row(min_new_tokens=-1), "min_new_tokens"),
    "min over what a row gets unasked": (Row(min_new_tokens=1025), "min_new_tokens"),
    "temperature not a number": (Row(sampling=Sampling(temperature=math.nan)), "sampling.temperature"),
    "top_p 0": (Row(sampling=Sampling(top_p=0)), "sampling.top_p"),
    "top_k below 0": (Row(sampling=Sampling(top_k=-1)), "sampling.top_k"),
    "a seed in the wrong place": (Row(sampling=Sampling(seed=1)), "sampling.seed"),
    "65 stop ids": (Row(stop_token_ids=range(65)), "stop_token_ids"),
    "a stop id outside the vocabulary": (Row(stop_token_ids=[5000]), "stop_token_ids"),
    "no time": (Row(time_limit=Duration()), "time_limit"),
    "too much time": (Row(time_limit=Duration(seconds=2**62)), "time_limit"),
    "a prefix below 0": (Row(generated_prefix=-1), "generated_prefix"),
    "nothing but prefix": (Row(generated_prefix=2), "generated_prefix"),
    "a prefix that fills the output": (Row(generated_prefix=1, max_new_tokens=1), "generated_prefix"),
    "a long salt": (Row(cache_salt="x" * 129), "cache_salt"),
}


@pytest.mark.parametrize("name", ROWS)
async def test_a_worker_names_the_row_and_the_field(stack: Stack, name: str) -> None:
    row, field = ROWS[name]
    heard = await refused(stack, ask(stack, start(stack, [[1], [1, 2]], rows=[Row(), row])))
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, f"start.rows[1].{field}")


async def test_a_worker_wants_parameters_for_every_row(stack: Stack) -> None:
    heard = await refused(stack, ask(stack, start(stack, [[1], [2]], rows=[Row()])))
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, "start.rows")


async def test_a_prompt_over_a_workers_context_is_refused_with_both_counts(stack: Stack) -> None:
    context = stack.model.context_length
    heard = await refused(stack, ask(stack, start(stack, [[1] * context])))
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, "start.tokens")
    assert heard.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert heard.message.count(str(context)) == 2


async def test_a_worker_knows_its_model_and_its_vocabulary(stack: Stack) -> None:
    heard = await refused(stack, ask(stack, start(stack, [[1]], model="other")))
    assert (heard.code, heard.reason, heard.field) == (CODE.NOT_FOUND, "UNKNOWN_MODEL", "start.model")
    for fingerprint in ("", "0" * 64):
        heard = await refused(stack, ask(stack, start(stack, [[1]], vocabulary_fingerprint=fingerprint)))
        assert heard.field == "start.vocabulary_fingerprint"
        assert (heard.code, heard.reason) == (CODE.FAILED_PRECONDITION, "VOCABULARY_MISMATCH")


async def messages(*requests: Request) -> AsyncIterator[Request]:
    for request in requests:
        yield request


def stop_row(row: int) -> Request:
    return Request(stop_row=worker_pb2.StopRow(row=row))


@pytest.mark.parametrize("first", [(), (Request(),), (stop_row(0),)], ids=["nothing", "an empty message", "a stop"])
async def test_a_worker_wants_start_first(stack: Stack, first: tuple[Request, ...]) -> None:
    heard = await refused(stack, stack.worker.Generate(messages(*first)))
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, "message")


@pytest.mark.parametrize("second", [Request(), "start"], ids=["an empty message", "start again"])
async def test_only_stops_may_follow_start_and_anything_else_ends_the_call(stack: Stack, second: Any) -> None:
    begin = start(stack, [[1]], rows=[Row(max_new_tokens=4000)])
    call = stack.worker.Generate()
    await call.write(Request(start=begin))
    await call.write(Request(start=begin) if second == "start" else second)
    heard = await refusal(call)
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, "message")
    await stack.idle()


async def test_bytes_that_are_no_message_are_an_invalid_argument_at_any_point_of_a_call(stack: Stack) -> None:
    generate = stack.worker_channel.stream_stream("/tokenmill.v1.WorkerService/Generate")
    begin = Request(start=start(stack, [[1]], rows=[Row(max_new_tokens=4000)])).SerializeToString()
    for raw in ([b"\xff\xff"], [begin, b"\xff\xff"]):
        call = generate()
        for one in raw:
            await call.write(one)
        heard = await refusal(call)
        assert (heard.code, heard.reason) == (CODE.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    await stack.idle()


ENCODES: dict[str, tuple[EncodeRequest, str]] = {
    "nothing": (EncodeRequest(), "input"),
    "no text": (EncodeRequest(prompts=gateway_pb2.TextPrompts()), "prompts.texts"),
    "an empty text": (EncodeRequest(prompts=gateway_pb2.TextPrompts(texts=["a", ""])), "prompts.texts[1]"),
    "1025 texts": (EncodeRequest(prompts=gateway_pb2.TextPrompts(texts=["a"] * 1025)), "prompts.texts"),
    "4 MiB and a byte": (
        EncodeRequest(prompts=gateway_pb2.TextPrompts(texts=["x" * (4 * 2**20 + 1)])),
        "prompts.texts",
    ),
    "no message": (EncodeRequest(chat=tokenizer_pb2.ChatPrompt()), "chat.messages"),
    "an unknown role": (
        EncodeRequest(chat=tokenizer_pb2.ChatPrompt(messages=[message(role="wizard")])),
        "chat.messages[0].role",
    ),
    "a template that refuses": (
        EncodeRequest(chat=tokenizer_pb2.ChatPrompt(messages=[message(role="tool")])),
        "chat.messages",
    ),
    "truncation to nothing": (
        EncodeRequest(prompts=gateway_pb2.TextPrompts(texts=["a"]), truncate_prompt_tokens=0),
        "truncate_prompt_tokens",
    ),
}


@pytest.mark.parametrize("name", ENCODES)
async def test_the_tokenizer_service_names_the_field(tier: TokenizerTier, name: str) -> None:
    request, field = ENCODES[name]
    heard = await refusal(tier.stub.Encode(request))
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, field)
    prompts = gateway_pb2.TextPrompts(texts=["a"])
    assert (await tier.stub.Encode(EncodeRequest(prompts=prompts))).token_counts == [1]


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.Encode(EncodeRequest(model="other", prompts=gateway_pb2.TextPrompts(texts=["a"]))),
        lambda stub: stub.Decode(tokenizer_pb2.DecodeRequest(model="other")),
        lambda stub: stub.GetTokenizer(tokenizer_pb2.GetTokenizerRequest(model="other")),
    ],
    ids=["Encode", "Decode", "GetTokenizer"],
)
async def test_the_tokenizer_service_knows_its_models(tier: TokenizerTier, call: Callable[[Any], Any]) -> None:
    heard = await refusal(call(tier.stub))
    assert (heard.code, heard.reason, heard.field) == (CODE.NOT_FOUND, "UNKNOWN_MODEL", "model")


async def test_decoding_what_is_no_token_names_the_field(tier: TokenizerTier) -> None:
    sequences = [gateway_pb2.TokenIds(ids=[1]), gateway_pb2.TokenIds(ids=[2**32 - 1])]
    heard = await refusal(tier.stub.Decode(tokenizer_pb2.DecodeRequest(model=NAME, sequences=sequences)))
    assert heard.code is CODE.INVALID_ARGUMENT
    assert heard.field is not None
    assert heard.field.startswith("sequences[1]")


@pytest.mark.parametrize("method", ["Encode", "Decode", "GetTokenizer"])
async def test_bytes_that_are_no_message_are_an_invalid_argument_at_the_tokenizer_too(
    tier: TokenizerTier, method: str
) -> None:
    async with open_channel(tier.server) as channel:
        open_call = channel.unary_stream if method == "GetTokenizer" else channel.unary_unary
        heard = await refusal(open_call(f"/tokenmill.v1.TokenizerService/{method}")(b"\xff\xff\xff"))
    assert (heard.code, heard.reason) == (CODE.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_a_tensor_is_what_the_worker_takes_as_the_tokenizer_makes_it(stack: Stack) -> None:
    prompts = gateway_pb2.TextPrompts(texts=["The quick brown fox", "A list of colors: red, blue"])
    encoded = await stack.tier.stub.Encode(EncodeRequest(prompts=prompts))
    rows = [stack.tier.tokenizer.encode(text).ids for text in prompts.texts]
    assert encoded.tokens == pack_tensor(rows, stack.tier.eos_id)
    begin = start(stack, rows, tokens=encoded.tokens, vocabulary_fingerprint=encoded.vocabulary_fingerprint)
    assert len((await hear_rows(ask(stack, begin))).ends) == 2
