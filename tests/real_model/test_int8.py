"""int8, the default on a CPU: a sensible answer, eager and compiled; how often company changes a text is printed."""

from __future__ import annotations

import pytest

from tests.real_model.prompts import CHATS, chat_request
from tests.real_model.stack import running_stack
from tokenmill.v1 import generation_pb2

pytestmark = pytest.mark.model
# Words of sensible answers, by place in CHATS. Where an answer begins, two tokens may be closer than int8 is exact, and
# then processors, kernels and company make another answer of it: so half of them have to hit. How well int8 predicts
# on the whole, test_quality measures.
SENSIBLE = {0: "Paris", 3: "blue", 5: "4", 14: "Monday"}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_int8_answers_and_its_divergence_in_a_batch_is_measured(demo_model, tmp_path, compiled):
    greedy = {"sampling": generation_pb2.SamplingParams(temperature=0)}
    requests = [
        chat_request(messages, stopping=generation_pb2.StoppingCriteria(max_new_tokens=tokens), **greedy)
        for messages, tokens in CHATS
    ]
    flags = ("--compile", "--compile-cache", str(tmp_path)) if compiled else ()
    with running_stack(demo_model, "--quantization", "int8", *flags) as int8:
        alone = [int8.stream_chat(request).texts[0] for request in requests]
        together = [outputs.texts[0] for outputs in int8.at_once(requests)]
    answers = [(word, texts[place]) for texts in (alone, together) for place, word in SENSIBLE.items()]
    assert sum(word.lower() in text.lower() for word, text in answers) >= len(answers) / 2, answers
    assert any(tmp_path.glob("**/*.so")) == compiled
    differing = sum(one != other for one, other in zip(alone, together, strict=True))
    print(f"\nint8, {'compiled' if compiled else 'eager'}: {differing} of {len(alone)} greedy texts differ in a batch")
