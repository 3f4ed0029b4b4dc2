"""What can go wrong in the tokenizer service's domain, by name; the servicer gives each its status code."""

# ruff: noqa: N818 - an error is named for what happened; "Error" says nothing more
from __future__ import annotations


class InvalidInput(Exception):
    """The caller gave something that cannot be used. Nothing was done.

    `field` is the path of the offending field in the request, such as `messages[2].role`; `message` one sentence.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class TokenizerFolderError(Exception):
    """A model folder has no tokenizer that can be served; the message names folder and file, for the operator."""


class Overloaded(Exception):
    """The work cannot be taken on now and was refused at once; retrying later helps."""


class RenderQueueFull(Overloaded):
    """Too many chats wait for a render process."""


class EncodeQueueFull(Overloaded):
    """Too many texts wait for an encoding thread."""


class RendererUnavailable(Overloaded):
    """No render process could be started: the machine is out of processes or memory."""


class NoChatTemplate(Exception):
    """A chat was sent to a model that has no template for chats."""


class TemplateError(Exception):
    """A chat template gave no text. The message is fit for the caller."""


class TemplateFailed(TemplateError):
    """The template refused the chat, or is broken: its own `raise_exception` message, or jinja's."""


class TemplateTooSlow(TemplateError):
    """Rendering was cut off after the time limit."""


class TemplateTooLarge(TemplateError):
    """Rendering exceeded the memory or output limit."""


class RendererClosed(Exception):
    """The renderer was closed before this chat was rendered: the service is shutting down."""
