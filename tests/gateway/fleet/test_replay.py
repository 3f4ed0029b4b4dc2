"""What another worker is asked for when one is lost, and what the caller hears of it."""

from array import array

from gateway.fleet.replay import Replay
from gateway.generation import RowFailed, RowPromptLogprobs, RowTokens, Usage
from gateway.text.token_logprob import TokenLogprob
from rpc.errors import internal
from tests.gateway.fleet.rows import finished, row, tokens
from tests.gateway.fleet.test_worker_load import Clock


def logprobs(*ids: int) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(token_id, -1.0, 1, ()) for token_id in ids)


def test_a_first_attempt_asks_for_the_rows_as_they_are():
    rows = [row(1, 2), row(3, time_limit_seconds=5.0)]
    attempt = Replay(rows, Clock()).attempt()
    assert attempt.rows == rows


def test_a_replay_has_the_unfinished_rows_with_what_they_have_and_what_is_left_of_their_time():
    clock = Clock()
    replay = Replay([row(1, 2), row(3, 4), row(5, time_limit_seconds=5.0)], clock)
    replay.attempt().heard([tokens(0, 10, 11), tokens(1, 12), finished(1), tokens(2, 13)])
    clock.now += 2
    again = replay.attempt()
    assert [list(one.ids) for one in again.rows] == [[1, 2, 10, 11], [5, 13]]
    assert [one.generated_prefix for one in again.rows] == [2, 1]
    assert [one.sampling.seed for one in again.rows] == [7, 7]
    assert [one.time_limit_seconds for one in again.rows] == [None, 3.0]
    assert [one.max_new_tokens for one in again.rows] == [100, 100], "the generated ones count for the worker too"
    assert [again.place_of(place) for place in range(3)] == [0, None, 1]


def test_time_that_is_over_is_the_workers_to_say():
    clock = Clock()
    replay = Replay([row(1, time_limit_seconds=1.0)], clock)
    clock.now += 2
    assert 0 < replay.attempt().rows[0].time_limit_seconds < 0.01


def test_events_of_a_replay_are_of_the_requests_rows_and_count_each_token_once():
    replay = Replay([row(1, 2), row(3, 4), row(5, 6)], Clock())
    replay.attempt().heard([tokens(1, 10), finished(0), tokens(2, 20)])
    again = replay.attempt()
    assert again.heard([tokens(0, 11), tokens(1, 21)]) == [tokens(1, 11), tokens(2, 21)]
    ended = again.heard([finished(0, prompt_tokens=3, cached_prompt_tokens=3, completion_tokens=1)])
    assert ended == [finished(1, prompt_tokens=2, cached_prompt_tokens=2, completion_tokens=2)]
    assert not replay.is_over
    again.heard([RowFailed(1, internal())])
    assert replay.is_over
    assert replay.tokens == 4


def test_log_probabilities_of_the_prompt_are_passed_on_once():
    replay = Replay([row(1, 2, 3, 4, prompt_logprobs=0)], Clock())
    assert replay.attempt().heard([RowPromptLogprobs(0, logprobs(2, 3))]) == [RowPromptLogprobs(0, logprobs(2, 3))]
    again = replay.attempt()
    assert again.rows[0].prompt_logprobs == 0, "not all had come"
    assert again.heard([RowPromptLogprobs(0, logprobs(2))]) == []
    assert again.heard([RowPromptLogprobs(0, logprobs(3, 4))]) == [RowPromptLogprobs(0, logprobs(4))]
    once_more = replay.attempt()
    assert once_more.heard([RowPromptLogprobs(0, logprobs(2, 3, 4)), tokens(0, 9)]) == [tokens(0, 9)]
    assert replay.attempt().rows[0].prompt_logprobs is None, "they come before the first token"


def test_log_probabilities_of_tokens_stay_with_them():
    event = RowTokens(0, array("i", [9]), logprobs(9))
    replay = Replay([row(1)], Clock())
    assert replay.attempt().heard([event]) == [event]


def test_a_row_that_is_not_wanted_any_more_is_not_asked_for_again():
    replay = Replay([row(1), row(2)], Clock())
    replay.forget(0)
    assert [list(one.ids) for one in replay.attempt().rows] == [[2]]
    replay.forget(1)
    assert replay.is_over


def test_a_worker_says_what_it_counted_of_a_row_that_it_had_alone():
    replay = Replay([row(1, 2)], Clock())
    replay.attempt().heard([tokens(0, 9)])
    (ended,) = replay.attempt().heard([finished(0, prompt_tokens=2, cached_prompt_tokens=1, completion_tokens=1)])
    assert ended.usage == Usage(2, 1, 1)
