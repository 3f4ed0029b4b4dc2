from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from cli.service_process import MAX_LINE_BYTES, lines


async def split(chunks: list[bytes]) -> list[str]:
    stream = asyncio.StreamReader()
    for chunk in chunks:
        stream.feed_data(chunk)
    stream.feed_eof()
    return [line async for line in lines(stream)]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_are_the_same_for_every_chunking(chunks: list[bytes]) -> None:
    text = b"".join(chunks)
    expected = [line.decode(errors="replace") for line in text.split(b"\n")]
    if expected[-1] == "":
        expected.pop()
    assert asyncio.run(split(chunks)) == expected


async def test_an_endless_line_is_cut_and_does_not_stop_the_reading() -> None:
    read = await split([b"x" * (5 * MAX_LINE_BYTES), b"\nnext\n"])
    assert len(read[0]) <= MAX_LINE_BYTES
    assert read[-1] == "next"
