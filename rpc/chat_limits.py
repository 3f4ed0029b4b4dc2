"""How much a chat may hold, and who may speak in it: checked where a request comes in, at the gateway and behind it.

Bytes alone do not bound a chat: a million empty messages are few bytes, and seconds of work. Each number is some ten
times what agents send.
"""

from __future__ import annotations

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 4096
MAX_TOOLS = 512
MAX_TOOL_CALLS = 256  # of one message
