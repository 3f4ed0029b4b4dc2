"""From a chat to the text the model reads, with what is control in it told from what is text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tokenizer_service.chat import Chat, Hide
from tokenizer_service.control.control_text import ControlText
from tokenizer_service.control.control_tokens import ControlTokens
from tokenizer_service.control.marks import Json, Marks
from tokenizer_service.errors import InvalidInput, TemplateError
from tokenizer_service.loaded_tokenizer import LoadedTokenizer
from tokenizer_service.templates.chat_templates import ChatTemplate
from tokenizer_service.work_pool import WorkPool

_FIELD = "continue_final_message"


class Renderer(Protocol):
    """Makes text of a template and its variables; TemplateRenderer does it where it can be killed."""

    async def render(self, template: str, variables: Mapping[str, object]) -> str:
        """Errors: those of TemplateRenderer.render."""
        ...


class ChatRendering:
    """Renders chats with one model's templates; the processes that do it are shared among models.

    Looking for control literals happens in the threads of `pool`: a chat may hold a million of them.
    """

    def __init__(self, tokenizer: LoadedTokenizer, controls: ControlTokens, renderer: Renderer, pool: WorkPool) -> None:
        self._special_tokens: dict[str, Json] = dict(tokenizer.special_tokens)
        self._templates = tokenizer.templates
        self._controls = controls
        self._renderer = renderer
        self._pool = pool

    async def render(self, chat: Chat, *, parse_special_tokens: bool) -> ControlText:
        """Return the rendered chat. With `parse_special_tokens` the caller's literals act as control tokens too.

        Errors: InvalidInput, NoChatTemplate, EncodeQueueFull, and those of TemplateRenderer.render.
        """
        chat.check()
        template = self._templates.choose(with_tools=bool(chat.tools))
        if parse_special_tokens:
            return await self._marked(template, chat, self._controls.marks(), lambda value: value)
        marks = self._controls.marks()
        text = await self._marked(template, chat, marks, marks.hide)
        return await self._cautious(template, chat, text) if text.holds(marks.suspects) else text

    async def _cautious(self, template: ChatTemplate, chat: Chat, text: ControlText) -> ControlText:
        """Render again, with words marked too: one of them may stand in a control token, written by two.

        Where the template minds the marks, as one that compares such a word does, `text` stays as it is.
        """
        marks = self._controls.marks(cautious=True)
        try:
            again = await self._marked(template, chat, marks, marks.hide)
        except (InvalidInput, TemplateError):
            return text
        return again if str(again) == str(text) else text

    async def _marked(self, template: ChatTemplate, chat: Chat, marks: Marks, hide: Hide) -> ControlText:
        variables = self._special_tokens | await self._pool.run(lambda: chat.variables(hide))
        if not chat.continue_final_message:
            rendered = await self._renderer.render(template.source, variables)
        else:
            rendered = await self._render_open(template, variables, marks.open_end)
        return await self._pool.run_if_large(len(rendered), lambda: self._controls.text_of(marks, rendered))

    async def _render_open(self, template: ChatTemplate, variables: dict[str, Json], end: str) -> str:
        """Render with a tag at the end of the last message, and cut there: no end of turn, no end of sequence.

        The rules are those of transformers, which adds a space to its tag: where the template trimmed that away, it
        also trimmed the message, whose own trailing space then is not wanted.
        """
        if "content" not in template.source:
            raise InvalidInput(_FIELD, "the chat template does not show the content of messages")
        messages = variables["messages"]
        assert isinstance(messages, list)
        last = messages[-1]
        assert isinstance(last, dict)
        content = str(last["content"])
        last["content"] = f"{content}{end} "
        rendered = await self._renderer.render(template.source, variables)
        if content.strip() not in rendered or end not in rendered:
            raise InvalidInput(_FIELD, "the chat template does not show the last message as it is")
        text, rest = rendered[: rendered.rindex(end)], rendered[rendered.rindex(end) + len(end) :]
        return text if rest.startswith(" ") else text.rstrip()
