from __future__ import annotations

from array import array

from gateway.generation import (
    FinishReason,
    Generation,
    OutputDelta,
    OutputFailed,
    OutputFinished,
    Sampling,
    Started,
    Timing,
    Usage,
)
from gateway.responses import CollectedOutputs, event_fields
from gateway.text.token_logprob import TokenLogprob
from rpc.errors import unavailable
from tokenmill.v1 import generation_pb2


def finished(index: int, *, prompt: int = 7, cached: int = 0, completion: int = 3) -> OutputFinished:
    usage = Usage(prompt, cached, completion)
    return OutputFinished(index, FinishReason.STOP_STRING, "end", None, 42, usage, Timing(total=1.5))


def collected(n: int, prompts: int = 1) -> CollectedOutputs:
    return CollectedOutputs(Generation(model="tiny", prompt=None, n=n, prompt_count=prompts))


def test_deltas_of_one_output_are_one_text() -> None:
    outputs = collected(n=2)
    for event in (
        OutputDelta(1, "b", array("i", [2])),
        OutputDelta(0, "a", array("i", [1])),
        OutputDelta(1, "c", array("i", [3])),
    ):
        outputs.add(event)
    outputs.add(finished(0))
    outputs.add(finished(1))
    assert [(output.text, list(output.token_ids)) for output in outputs.outputs] == [("a", [1]), ("bc", [2, 3])]
    assert outputs.outputs[0].finish.stop_string == "end"
    assert outputs.outputs[0].timing.total.ToMilliseconds() == 1500


def test_each_prompt_is_counted_once_and_every_token_also_of_what_failed() -> None:
    outputs = collected(n=2, prompts=2)
    outputs.add(OutputFailed(0, unavailable("GONE", "gone"), Usage(7, 0, 2)))
    outputs.add(finished(1, prompt=7, cached=6))
    outputs.add(finished(2, prompt=9))
    outputs.add(finished(3, prompt=9, cached=8))
    assert outputs.usage() == generation_pb2.Usage(prompt_tokens=16, cached_prompt_tokens=0, completion_tokens=11)


def test_log_probabilities_are_told_as_they_are_and_collected() -> None:
    likely = TokenLogprob(7, -0.25, 1, (), b" fox")
    drawn = TokenLogprob(9, -2.5, 4, (likely,), b"\xf0\x9f")
    outputs = collected(n=1)
    deltas = [
        OutputDelta(0, "", array("i"), prompt_logprobs=[likely]),
        OutputDelta(0, "", array("i"), prompt_logprobs=[drawn]),
        OutputDelta(0, "a", array("i"), [drawn]),
        OutputDelta(0, "b", array("i"), [likely]),
    ]
    for event in (*deltas, finished(0)):
        outputs.add(event)
    alternatives = [generation_pb2.TokenLogprob(token_id=7, text=b" fox", logprob=-0.25, rank=1)]
    wanted = generation_pb2.TokenLogprob(token_id=9, text=b"\xf0\x9f", logprob=-2.5, rank=4, alternatives=alternatives)
    (output,) = outputs.outputs
    assert list(output.logprobs) == [wanted, *alternatives]
    assert list(output.prompt_logprobs) == [*alternatives, wanted]
    streamed = [event_fields(delta)["delta"] for delta in deltas]
    assert [one for delta in streamed for one in delta.logprobs] == list(output.logprobs)
    assert [one for delta in streamed for one in delta.prompt_logprobs] == list(output.prompt_logprobs)


def test_started_says_what_is_effective_but_for_the_bias() -> None:
    started = event_fields(Started("tiny", Sampling(temperature=0.5, min_p=0.25, logit_bias=((3, 1.0),)), (), ()))
    assert started["started"].sampling == generation_pb2.SamplingParams(temperature=0.5, min_p=0.25)


def test_a_failed_output_keeps_the_text_that_came_before() -> None:
    outputs = collected(n=2)
    outputs.add(OutputDelta(0, "so far", array("i")))
    outputs.add(OutputFailed(0, unavailable("GONE", "gone", 2.0), Usage(7, 0, 2)))
    (output, _) = outputs.outputs
    assert (output.text, output.error.reason, output.error.code) == ("so far", "GONE", 14)
    assert output.error.retry_delay.seconds == 2
    assert output.usage == generation_pb2.Usage(prompt_tokens=7, completion_tokens=2)


def test_every_reason_has_its_number_in_the_contract() -> None:
    for reason in FinishReason:
        event = OutputFinished(0, reason, None, 5, 1, Usage(), Timing())
        finish = event_fields(event)["finished"].finish
        assert generation_pb2.FinishReason.Name(finish.reason) == f"FINISH_REASON_{reason.name}"
    assert set(generation_pb2.FinishReason.values()) == {0, *(reason.value for reason in FinishReason)}
