"""What one rendering of a chat template may cost, and how the two sides of a render process talk.

Frames, both ways: a length (4 bytes, big-endian), then that many bytes. Request: JSON `{"template", "variables"}`.
Answer: one byte saying which (`Answer`), then UTF-8 text. The process sends an empty frame once it is ready.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

FRAME_LENGTH = struct.Struct(">I")


class Answer:
    """First byte of an answer; the text after it is the rendered chat, or the message of the failure."""

    RENDERED = b"r"
    FAILED = b"f"
    OUTPUT_TOO_LARGE = b"o"
    OUT_OF_MEMORY = b"m"


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """Limits of one rendering. The defaults are those for chats of 4 MiB, a hundred times a long one."""

    seconds: float = 2.0  # wall time, compiling the template included
    memory_bytes: int = 512 * 2**20  # address space of a render process; an idle one takes about 40 MB
    output_characters: int = 9 * 2**20
    input_bytes: int = 9 * 2**20  # template and variables as JSON

    @classmethod
    def for_chats_of(cls, max_input_bytes: int, *, seconds: float) -> RenderLimits:
        """The limits that let a chat of `max_input_bytes` through.

        Twice its size, for what JSON escapes and for what the template adds, and 1 MiB for the template itself. In
        memory one character may take 4 bytes, and a text is there in several copies while it is joined and encoded.
        """
        text = 2 * max_input_bytes + 2**20
        memory = 256 * 2**20 + 64 * max_input_bytes
        return cls(seconds=seconds, memory_bytes=memory, output_characters=text, input_bytes=text)
