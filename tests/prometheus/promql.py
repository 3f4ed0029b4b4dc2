"""What an expression of PromQL asks for: names of metrics, and labels. Reads it word by word; it is no parser."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

WORDS = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*") | (?P<range>\[[^\]]*\]) | (?P<number>\d[\w.]*)
      | (?P<word>[a-zA-Z_:$][\w:$]*) | (?P<sign>[^\s\w])""",
    re.VERBOSE,
)
WITH_LABELS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
OPERATORS = {"and", "or", "unless", "offset", "bool"}


@dataclass
class Asked:
    """Metrics, each with the labels that its selectors name; and labels that are grouped or joined by."""

    metrics: dict[str, set[str]] = field(default_factory=dict)
    values: list[tuple[str, str, str]] = field(default_factory=list)  # metric, label, what it is to equal
    grouped: set[str] = field(default_factory=set)


def asked(expression: str) -> Asked:
    """What `expression` asks for."""
    words = [
        (match.lastgroup, match.group())
        for match in WORDS.finditer(re.sub(r"#.*", "", expression))
        if match.lastgroup not in {"range", "number"}
    ]
    found, at = Asked(), 0
    while at < len(words):
        kind, word = words[at]
        at += 1
        following = words[at][1] if at < len(words) else ""
        if kind != "word" or word in OPERATORS or following in {"by", "without"}:
            continue
        if word in WITH_LABELS:
            if following == "(":
                labels, at = _until(words, at + 1, ")")
                found.grouped.update(label for kind, label in labels if kind == "word")
        elif following == "{":
            matchers, at = _until(words, at + 1, "}")
            _take(found, word, matchers)
        elif following != "(":
            found.metrics.setdefault(word, set())
    return found


def _until(words: list[tuple[str | None, str]], at: int, end: str) -> tuple[list[tuple[str | None, str]], int]:
    stop = next(index for index in range(at, len(words)) if words[index][1] == end)
    return words[at:stop], stop + 1


def _take(found: Asked, metric: str, matchers: list[tuple[str | None, str]]) -> None:
    labels = found.metrics.setdefault(metric, set())
    for index, (kind, word) in enumerate(matchers):
        if kind == "word":
            labels.add(word)
            if matchers[index + 1][1] == "=" and matchers[index + 2][0] == "text":
                found.values.append((metric, word, matchers[index + 2][1][1:-1]))
