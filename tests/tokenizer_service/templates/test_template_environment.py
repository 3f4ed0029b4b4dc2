"""Templates must render exactly as transformers renders them: models were trained on that text."""

from __future__ import annotations

import pytest
from jinja2.exceptions import SecurityError, TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from tests.tokenizer_service.chat_formats import FORMATS
from tokenizer_service.templates.template_environment import chat_environment

MESSAGES = [
    {"role": "user", "content": " a <b> 'quoted' & \"more\" naïve\n"},
    {"role": "assistant", "content": "skip me"},
    {"role": "user", "content": "two\n\nlines "},
]
TOOLS = [{"type": "function", "function": {"name": "é<", "parameters": {"z": 1, "a": [None, True, 1.5]}}}]
SNIPPETS = {
    "trimmed blocks": "  {% if true %}\n  a\n  {% endif %}\n b {%- if true %} c {% endif -%} d\n",
    "tojson": "{{ tools | tojson }}|{{ tools[0] | tojson(indent=2) }}|{{ tools | tojson(ensure_ascii=True) }}",
    "tojson sorted": "{{ tools | tojson(sort_keys=True, separators=(',', ':')) }}",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "break": "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}",
    "generation": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "namespace self": "{% set ns = namespace(self=1, b=2) %}{{ ns.self }}{{ ns.b }}",
    "dict": "{{ dict(a=1) | tojson }}{{ dict.fromkeys(['a', 'b'], 2) | tojson }}",
    "undefined": "[{{ nothing }}]{{ nothing is defined }}{{ messages[0].nothing is none }}",
    "date": "{{ strftime_now('%Y-%m-%d') }}",
    "no html escaping": "{{ messages[0].content }}",
    "methods": "{{ messages[0].content.strip().split(' ') }}{{ messages[0].items() | list }}",
    "unsafe attribute": "{{ messages.__class__ }}",
}


@pytest.mark.parametrize("source", [pytest.param(source, id=name) for name, source in SNIPPETS.items()])
def test_a_construct_renders_as_in_transformers(source):
    (expected,), _ = render_jinja_template([MESSAGES], tools=TOOLS, chat_template=source)
    assert chat_environment().from_string(source).render(messages=MESSAGES, tools=TOOLS) == expected


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("prompt", [True, False])
def test_a_chat_format_renders_as_in_transformers(name, prompt):
    variables = {"bos_token": "<B>", "eos_token": "<E>", "add_generation_prompt": prompt, "tools": TOOLS}
    source = FORMATS[name].source
    (expected,), _ = render_jinja_template([MESSAGES], chat_template=source, **variables)
    assert chat_environment().from_string(source).render(messages=MESSAGES, **variables) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{% set ns = namespace(_hidden=1) %}",
        "{% set ns = namespace() %}{% set ns._hidden = 1 %}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception.__globals__ }}{{ raise_exception.__globals__.os }}",
    ],
)
def test_a_refused_construct_is_refused_as_in_transformers(source):
    with pytest.raises(TemplateError) as ours:
        chat_environment().from_string(source).render(messages=[])
    with pytest.raises(TemplateError) as theirs:
        render_jinja_template([[]], chat_template=source)
    assert type(ours.value) is type(theirs.value)


def test_private_names_are_refused_as_unsafe():
    with pytest.raises(SecurityError, match="_hidden"):
        chat_environment().from_string("{% set ns = namespace() %}{% set ns._hidden = 1 %}").render()
