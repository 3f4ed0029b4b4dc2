"""One line that a service wrote to its stderr: a JSON log line, or anything else, such as the end of a traceback."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

ALWAYS_THERE = ("time", "level", "logger", "message")
SEVERE = frozenset({"warning", "error", "critical"})


@dataclass(frozen=True, slots=True)
class LogLine:
    """A parsed line. A line that is not JSON has itself as the message and no level."""

    message: str
    level: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> LogLine:
        """Parse one line as it came."""
        try:
            content = json.loads(text)
        except ValueError:
            return cls(text.rstrip())
        if not isinstance(content, dict):
            return cls(text.rstrip())
        fields = {key: value for key, value in content.items() if key not in ALWAYS_THERE}
        return cls(str(content.get("message", "")), str(content.get("level", "")), fields)

    @property
    def severe(self) -> bool:
        """Whether a person should see it unasked."""
        return self.level in SEVERE

    def __str__(self) -> str:
        """As a person reads it."""
        return " ".join([self.message, *(f"{key}={value}" for key, value in self.fields.items())])
