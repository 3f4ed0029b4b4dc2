"""Through all three services: log-probabilities are those of the model's own forward pass, computed in one piece."""

from __future__ import annotations

import pytest

from tests.real_model.prompts import CHATS, LONG, chat_request
from tests.real_model.reference import TIE
from tokenmill.v1 import gateway_pb2, generation_pb2

pytestmark = pytest.mark.model

TOP = 5
OPTIONS = {
    "sampling": generation_pb2.SamplingParams(temperature=0.7, repetition_penalty=1.3, seed=7),
    "stopping": generation_pb2.StoppingCriteria(max_new_tokens=12),
    "output": generation_pb2.OutputOptions(logprobs=True, prompt_logprobs=True, top_logprobs=TOP, token_ids=True),
}


def log_probabilities(reference, ids):
    """Of every id of the vocabulary after each of `ids`, float64 [len(ids), vocabulary]."""
    import torch

    with torch.inference_mode():
        return reference.model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)


def assert_is_of(told, token_id, row, tokenizer):
    """`told` says of `token_id` what `row`, the log-probabilities at its position, says."""
    assert told.token_id == token_id
    assert told.logprob == pytest.approx(float(row[token_id]), abs=TIE)
    better, at_least = (int((row > row[token_id] + gap).sum()) for gap in (TIE, -TIE))
    assert better + 1 <= told.rank <= max(at_least, 1)
    best = row.topk(TOP).values.tolist()
    assert [other.logprob for other in told.alternatives] == pytest.approx(best, abs=TIE)
    for place, other in enumerate(told.alternatives, start=1):
        assert other.logprob == pytest.approx(float(row[other.token_id]), abs=TIE)
        assert other.rank <= place
        assert other.text.decode(errors="replace") == tokenizer.decode([other.token_id])
    assert told.text.decode(errors="replace") == tokenizer.decode([token_id])


def assert_all(reference, prompt, output):
    known = [*prompt, *output.token_ids]
    rows = log_probabilities(reference, known)
    told = [*output.prompt_logprobs, *output.logprobs]
    assert len(output.prompt_logprobs) == len(prompt) - 1
    assert len(told) == len(known) - 1
    for position, one in enumerate(told, start=1):
        assert_is_of(one, known[position], rows[position - 1], reference.tokenizer)


def test_those_of_a_chat_are_of_the_model_before_temperature_and_penalties(exact, reference):
    messages, _ = CHATS[0]
    (output,) = exact.stub.Chat(chat_request(messages, **OPTIONS), timeout=300).outputs
    assert_all(reference, reference.chat_ids(messages), output)


def test_prompts_of_several_chunks_in_one_call_have_theirs(exact, reference):
    texts = [LONG * 8, "def add(a, b):\n    return", LONG * 8]
    request = gateway_pb2.GenerateRequest(prompts=gateway_pb2.TextPrompts(texts=texts), **OPTIONS)
    for text, output in zip(texts, exact.stub.Generate(request, timeout=300).outputs, strict=True):
        assert_all(reference, reference.prompt_ids(text), output)
