"""A seed gives the same text alone, among others, and after a restart."""

from __future__ import annotations

import pytest

from tests.real_model.prompts import CHATS, chat_request
from tests.real_model.stack import EXACT, running_stack
from tokenmill.v1 import generation_pb2

pytestmark = pytest.mark.model

QUESTION = [{"role": "user", "content": "Write one sentence about the sea."}]


def sampled(seed, messages=QUESTION, tokens=32, n=1):
    return chat_request(
        messages,
        n=n,
        sampling=generation_pb2.SamplingParams(temperature=0.9, seed=seed),
        stopping=generation_pb2.StoppingCriteria(max_new_tokens=tokens),
    )


def test_a_seed_gives_the_same_text_alone_among_fifteen_others_and_after_a_restart(exact, demo_model):
    alone = exact.stream_chat(sampled(7)).texts
    others = [sampled(100 + i, messages, tokens) for i, (messages, tokens) in enumerate(CHATS[:15])]
    assert exact.at_once([*others, sampled(7)])[-1].texts == alone
    with running_stack(demo_model, *EXACT) as restarted:
        assert restarted.stream_chat(sampled(7)).texts == alone


def test_different_seeds_differ_and_so_do_the_samples_of_one_request(exact):
    texts = exact.stream_chat(sampled(7, n=4)).texts
    assert texts[0] == exact.stream_chat(sampled(7)).texts[0]
    assert len({*texts, exact.stream_chat(sampled(8)).texts[0]}) == 5


def test_each_sample_can_be_had_again_by_its_own_seed(exact):
    streamed = exact.stream_chat(sampled(7, n=3))
    for text, finished in zip(streamed.texts, streamed.finished, strict=True):
        assert exact.stream_chat(sampled(finished.finish.seed)).texts == [text]


def test_a_request_without_a_seed_is_told_the_one_it_got(exact):
    request = sampled(0)
    request.sampling.ClearField("seed")
    first = exact.stream_chat(request)
    assert exact.stream_chat(sampled(first.finished[0].finish.seed)).texts == first.texts
