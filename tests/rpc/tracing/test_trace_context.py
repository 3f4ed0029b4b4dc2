"""What is read of W3C Trace Context, and what is told on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.tracing.trace_context import TraceContext, trace_context, trace_context_from

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEXADECIMAL = "0123456789abcdef"


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text(HEXADECIMAL, min_size=count, max_size=count).filter(lambda text: set(text) != {"0"})


CONTEXTS = st.builds(
    TraceContext,
    digits(32),
    digits(16),
    st.sampled_from([0, 1]),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=512),
)


@given(CONTEXTS)
def test_what_is_told_on_is_read_as_it_was(context):
    assert trace_context_from(context.metadata()) == context


@pytest.mark.parametrize("flags", ["00", "01", "ff", "02"])
def test_of_the_flags_only_whether_it_is_sampled_is_told_on(flags):
    context = trace_context(f"00-{TRACE}-{SPAN}-{flags}")
    assert context == TraceContext(TRACE, SPAN, int(flags, 16) & 1)
    assert context.is_sampled == flags.endswith(("1", "f"))


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{TRACE[:-1]}x-{SPAN}-01",
        "a prompt that somebody put there",
    ],
)
def test_what_the_standard_does_not_know_is_no_trace(parent):
    assert trace_context(parent) is None


def test_a_later_version_is_read_as_far_as_it_is_known():
    assert trace_context(f"cc-{TRACE}-{SPAN}-01-what-the-future-holds") == TraceContext(TRACE, SPAN, 1)


def test_a_state_may_come_in_parts():
    metadata = [("tracestate", "one=1"), ("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "two=2")]
    assert trace_context_from(metadata) == TraceContext(TRACE, SPAN, 1, "one=1,two=2")


def test_two_parents_are_none():
    parent = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    assert trace_context_from([parent, parent]) is None


@pytest.mark.parametrize("state", ["x" * 513, "caf\u00e9=1", "a=1\nb=2"])
def test_a_state_that_cannot_be_passed_on_is_left_out(state):
    assert trace_context(f"00-{TRACE}-{SPAN}-01", state) == TraceContext(TRACE, SPAN, 1)
