"""The chat templates of a model folder, by name, each with its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rpc.fingerprint import template_fingerprint
from tokenizer_service.errors import NoChatTemplate


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The source of a template (jinja)."""

    source: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the source, hexadecimal."""
        return template_fingerprint(self.source)


class ChatTemplates:
    """Chooses among the templates of one model as transformers does: "tool_use" for tools, else "default"."""

    def __init__(self, templates: str | Mapping[str, str] | None) -> None:
        named = {"default": templates} if isinstance(templates, str) else dict(templates or {})
        self._templates = {name: ChatTemplate(source) for name, source in named.items() if source}

    @property
    def fingerprint(self) -> str:
        """The default template's fingerprint; empty without one."""
        return self._templates["default"].fingerprint if "default" in self._templates else ""

    def choose(self, *, with_tools: bool) -> ChatTemplate:
        """Return the template for a chat. Errors: NoChatTemplate."""
        name = "tool_use" if with_tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise NoChatTemplate("the model has no chat template: send prompts instead of messages")
        return self._templates[name]
