"""Through all three services and real sockets: the text is that of `transformers.generate()` alone."""

from __future__ import annotations

import pytest

from tests.real_model.prompts import CHATS, chat_request
from tokenmill.v1 import gateway_pb2, generation_pb2

pytestmark = pytest.mark.model


def greedy(max_new_tokens):
    return {
        "sampling": generation_pb2.SamplingParams(temperature=0),
        "stopping": generation_pb2.StoppingCriteria(max_new_tokens=max_new_tokens),
        "output": generation_pb2.OutputOptions(token_ids=True),
    }


@pytest.fixture(scope="module")
def expected(reference):
    """Prompt ids and greedy ids of each chat, alone."""
    prompts = [reference.chat_ids(messages) for messages, _ in CHATS]
    return [(ids, reference.greedy(ids, tokens)) for ids, (_, tokens) in zip(prompts, CHATS, strict=True)]


def assert_exact(reference, expected, texts, ids):
    ties = 0
    for (prompt, wanted), text, found in zip(expected, texts, ids, strict=True):
        tie = reference.assert_same(prompt, wanted, found)
        assert tie or text == reference.text(wanted)
        ties += tie
    print(f"\n{len(texts)} texts compared, {ties} ties")


def test_sixteen_chats_at_once_are_what_generate_says_of_each_alone(exact, reference, expected):
    requests = [chat_request(messages, **greedy(tokens)) for messages, tokens in CHATS]
    outputs = exact.at_once(requests)
    assert_exact(reference, expected, [o.texts[0] for o in outputs], [o.ids[0] for o in outputs])


def test_sixteen_prompts_in_one_padded_tensor_are_what_generate_says_of_each_alone(exact, reference):
    texts = [messages[-1]["content"] for messages, _ in CHATS]
    prompts = [reference.prompt_ids(text) for text in texts]
    expected = [(ids, reference.greedy(ids, 12)) for ids in prompts]
    request = gateway_pb2.GenerateRequest(prompts=gateway_pb2.TextPrompts(texts=texts), **greedy(12))
    streamed = exact.stream_generate(request)
    assert_exact(reference, expected, streamed.texts, streamed.ids)


def test_the_unary_text_is_the_streamed_one(exact):
    messages, tokens = CHATS[0]
    request = chat_request(messages, **greedy(tokens))
    assert exact.stub.Chat(request, timeout=300).outputs[0].text == exact.stream_chat(request).texts[0]
