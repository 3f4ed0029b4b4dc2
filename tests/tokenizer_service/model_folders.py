"""Model folders for tests: a tokenizer family with the added tokens of a chat format."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError
from tokenizers import AddedToken, Tokenizer

from tests.tokenizer_service.chat_formats import ChatFormat
from tests.tokenizers_for_tests import FAMILIES
from tokenizer_service.errors import TemplateFailed
from tokenizer_service.templates.template_environment import chat_environment


@cache
def _trained(family: str) -> str:
    return FAMILIES[family]().to_str()


def build_tokenizer(family: str, chat_format: ChatFormat) -> Tokenizer:
    """The family's tokenizer with the format's tokens added."""
    tokenizer = Tokenizer.from_str(_trained(family))
    rstrip = chat_format.strips_right
    special = [AddedToken(text, special=True, normalized=False, rstrip=rstrip) for text in chat_format.special]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in chat_format.added])
    return tokenizer


def write_model_folder(folder: Path, tokenizer: Tokenizer, chat_format: ChatFormat, **config: Any) -> Path:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": chat_format.bos, "eos_token": chat_format.eos}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | {k: v for k, v in named.items() if v} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(chat_format.source)
    return folder


@cache
def _compiled(template: str) -> Template:
    return chat_environment().from_string(template)


class InProcessRenderer:
    """Renders where it is called; for tests of what is rendered, not of where."""

    async def render(self, template: str, variables: Any) -> str:
        try:
            return _compiled(template).render(json.loads(json.dumps(variables)))
        except TemplateError as error:
            raise TemplateFailed(str(error)) from error
