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
    """Limits of one rendering. The defaults are some hundred times what a long chat needs."""

    seconds: float = 2.0  # wall time, compiling the template included
    memory_bytes: int = 512 * 1024 * 1024  # address space of a render process; an idle one takes about 40 MB
    output_characters: int = 4 * 1024 * 1024
    input_bytes: int = 4 * 1024 * 1024  # template and variables as JSON; the gRPC message limit is of this size
