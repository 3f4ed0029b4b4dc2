"""A step in passes that score few tokens each: nothing is left out, nothing twice, everything in order."""

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from model_worker.engine import Segment
from model_worker.sequence import RowParams, Sequence
from model_worker.torch_engine.forward_passes import MAX_SCORED_TOKENS, HeadRow, forward_passes


def segment(ids: int, prompt: int, start: int, length: int, *, scored: bool) -> Segment:
    params = RowParams(prompt_logprobs=0 if scored else None)
    sequence = Sequence(params, array("i", range(ids)), prompt_tokens=min(prompt, ids))
    start = min(start, ids - 1)
    length = min(length, ids - start)
    return Segment(sequence, start, length, draws=start + length == ids)


segments = st.lists(
    st.builds(
        segment,
        ids=st.integers(1, 300),
        prompt=st.integers(1, 300),
        start=st.integers(0, 300),
        length=st.integers(1, 300),
        scored=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=50, deadline=None)
@given(segments)
def test_the_parts_of_each_segment_make_it_up_in_order_and_only_the_last_draws(step):
    parts: list[list[Segment]] = [[] for _ in step]
    for one in forward_passes(step):
        assert one.places == sorted(set(one.places))
        for place, part in zip(one.places, one.segments, strict=True):
            assert part.sequence is step[place].sequence
            parts[place].append(part)
    for whole, pieces in zip(step, parts, strict=True):
        assert pieces[0].start == whole.start
        ends = [piece.start + piece.length for piece in pieces]
        assert ends == [*(piece.start for piece in pieces[1:]), whole.start + whole.length]
        assert [piece.draws for piece in pieces] == [False] * (len(pieces) - 1) + [whole.draws]


@settings(max_examples=50, deadline=None)
@given(segments)
def test_each_token_of_a_prompt_is_asked_for_once_and_few_in_one_pass(step):
    asked: list[list[int]] = [[] for _ in step]
    drawn = [False] * len(step)
    for one in forward_passes(step):
        assert sum(row.next_id is not None for row in one.head_rows) <= MAX_SCORED_TOKENS
        assert [row.place for row in one.head_rows] == sorted(row.place for row in one.head_rows)
        for row in one.head_rows:
            place, part = one.places[row.place], one.segments[row.place]
            if row.next_id is None:
                drawn[place] |= part.draws
            else:
                assert row.next_id == part.start + part.length - row.back  # the ids are their own positions
                asked[place].append(row.next_id)
    for whole, ids in zip(step, asked, strict=True):
        end = min(whole.start + whole.length + 1, whole.sequence.prompt_tokens)
        wanted = whole.sequence.params.prompt_logprobs is not None
        assert ids == (list(range(whole.start + 1, end)) if wanted else [])
    assert drawn == [whole.draws for whole in step]


def test_a_step_in_which_no_prompt_is_scored_is_one_pass():
    step = [segment(200, 200, 0, 200, scored=False), segment(50, 20, 30, 10, scored=True)]
    [only] = forward_passes(step)
    assert only.segments == step
    assert only.head_rows == [HeadRow(0)]


def test_a_pass_that_asks_for_nothing_asks_for_a_row_that_nobody_reads():
    [only] = forward_passes([segment(20, 20, 0, 5, scored=False), segment(9, 9, 2, 3, scored=False)])
    assert only.head_rows == [HeadRow(0)]
    assert not only.segments[0].draws
