"""The examples of Hugging Face's guide "Generation with LLMs", each with the pitfall it warns of."""

from __future__ import annotations

import pytest

from tests.real_model.prompts import chat_request
from tokenmill.v1 import gateway_pb2, generation_pb2

pytestmark = pytest.mark.model

THUG = {"role": "system", "content": "You are a friendly chatbot who always responds in the style of a thug"}
HELICOPTERS = {"role": "user", "content": "How many helicopters can a human eat in one sitting?"}


def generate(exact, *texts, sampling=None, max_new_tokens=20):
    request = gateway_pb2.GenerateRequest(
        prompts=gateway_pb2.TextPrompts(texts=texts),
        sampling=sampling,
        stopping=generation_pb2.StoppingCriteria(max_new_tokens=max_new_tokens),
    )
    return exact.stub.Generate(request, timeout=300).outputs


def test_a_list_of_colors_goes_on(exact, reference):
    (output,) = generate(exact, "A list of colors: red, blue")
    assert output.text == reference.text(reference.greedy(reference.prompt_ids("A list of colors: red, blue"), 20))
    assert "green" in output.text


def test_a_padded_batch_gives_each_text_as_alone(exact):
    texts = ["A list of colors: red, blue", "Portugal is"]
    together = [output.text for output in generate(exact, *texts)]
    assert together == [generate(exact, text)[0].text for text in texts]


def test_the_padding_pitfall(exact):
    short, longer = "1, 2, 3", "A, B, C, D, E"
    beside = generate(exact, short, longer)
    assert beside[0].text == generate(exact, short)[0].text
    assert beside[0].text.startswith(", 4, 5, 6")
    assert beside[1].text == generate(exact, longer)[0].text


def test_a_short_output_says_why_it_is_short(exact):
    (output,) = generate(exact, "A sequence of numbers: 1, 2", max_new_tokens=5)
    assert output.usage.completion_tokens == 5
    assert output.finish.reason == generation_pb2.FINISH_REASON_MAX_NEW_TOKENS


def test_the_default_length_is_documented_and_not_twenty(exact):
    model = exact.stub.GetModel(gateway_pb2.GetModelRequest(), timeout=60).model
    assert model.default_max_new_tokens == 1024
    request = gateway_pb2.GenerateRequest(
        prompts=gateway_pb2.TextPrompts(texts=["A sequence of numbers: 1, 2"]),
        stopping=generation_pb2.StoppingCriteria(stop_strings=["40"]),
    )
    output = exact.stub.Generate(request, timeout=300).outputs[0]
    assert output.usage.completion_tokens > 20
    assert output.finish.reason == generation_pb2.FINISH_REASON_STOP_STRING


def test_i_am_a_cat_greedy_and_sampled_with_seed_42_twice(exact):
    greedy = generate(exact, "I am a cat.")[0]
    seed_42 = generation_pb2.SamplingParams(temperature=1.0, seed=42)
    first, second = (generate(exact, "I am a cat.", sampling=seed_42)[0] for _ in range(2))
    assert greedy.text == generate(exact, "I am a cat.", sampling=generation_pb2.SamplingParams(temperature=0))[0].text
    assert first.text == second.text != greedy.text
    assert first.finish.seed == 42


def test_the_system_message_goes_through_the_template(exact, reference):
    with_system, without_system = [THUG, HELICOPTERS], [HELICOPTERS]
    assert reference.chat_ids(with_system) != reference.chat_ids(without_system)
    for messages in (with_system, without_system):
        request = gateway_pb2.CountTokensRequest(chat=chat_request(messages))
        assert exact.stub.CountTokens(request, timeout=60).total_tokens == len(reference.chat_ids(messages))
    limit = generation_pb2.StoppingCriteria(max_new_tokens=24)
    for messages in (with_system, without_system):
        answer = exact.stream_chat(chat_request(messages, stopping=limit)).texts[0]
        assert answer == reference.text(reference.greedy(reference.chat_ids(messages), 24))


def test_the_same_question_without_the_template_is_another_prompt(exact, reference):
    question = HELICOPTERS["content"]
    bare = gateway_pb2.GenerateRequest(prompts=gateway_pb2.TextPrompts(texts=[question]))
    count = exact.stub.CountTokens(gateway_pb2.CountTokensRequest(generate=bare), timeout=60).total_tokens
    templated = gateway_pb2.CountTokensRequest(chat=chat_request([THUG, HELICOPTERS]))
    assert count == len(reference.prompt_ids(question))
    assert exact.stub.CountTokens(templated, timeout=60).total_tokens > count
