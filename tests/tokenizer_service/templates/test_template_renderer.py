"""Rendering in processes: poison is cut off by name, and the pool is whole again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.tokenizer_service.chat_formats import FORMATS
from tests.tokenizer_service.model_folders import InProcessRenderer
from tokenizer_service.errors import (
    InvalidInput,
    RendererClosed,
    RenderQueueFull,
    TemplateFailed,
    TemplateTooLarge,
    TemplateTooSlow,
)
from tokenizer_service.templates.render_limits import RenderLimits
from tokenizer_service.templates.template_renderer import TemplateRenderer

LIMITS = RenderLimits(seconds=0.2, memory_bytes=256 << 20, output_characters=100_000, input_bytes=100_000)
GOOD = "Hello {{ name }}!"
FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
POISON = {
    FOREVER: TemplateTooSlow,
    "{{ 9 ** (9 ** 9) }}": TemplateTooSlow,  # one operation, folded while the template is compiled
    "{{ 'a' * 10 ** 9 }}": TemplateTooLarge,
    "{% set n = 10 ** 9 %}{{ 'a' * n }}": TemplateTooLarge,
    "{% for i in range(99999) %}aaaaaaaaaa{% endfor %}": TemplateTooLarge,
    "{{ raise_exception('only two turns') }}": TemplateFailed,
    "{% if %}": TemplateFailed,
    "{{ " + "(" * 20_000 + "1": TemplateFailed,
}


@asynccontextmanager
async def renderer(**settings):
    renderer = TemplateRenderer(LIMITS, **settings)
    await renderer.start()
    try:
        yield renderer
    finally:
        await renderer.close()


async def until_whole(pool: TemplateRenderer, processes: int) -> None:
    async with asyncio.timeout(10):
        while len(pool.process_ids) < processes:
            await pool.render(GOOD, {})


@pytest.mark.parametrize("poison", POISON, ids=lambda poison: poison[:30])
async def test_poison_is_named_and_the_next_chat_renders(poison):
    async with renderer(processes=1) as pool:
        with pytest.raises(POISON[poison]):
            await pool.render(poison, {})
        assert await pool.render(GOOD, {"name": "you"}) == "Hello you!"


async def test_after_twenty_poison_templates_the_pool_is_whole():
    others = set(psutil.Process().children())
    async with renderer(processes=2) as pool:
        poison = [list(POISON)[turn % 4] for turn in range(20)]
        errors = await asyncio.gather(*(pool.render(source, {}) for source in poison), return_exceptions=True)
        assert [type(error) for error in errors] == [POISON[source] for source in poison]
        await until_whole(pool, 2)
        assert await pool.render(GOOD, {"name": "you"}) == "Hello you!"
        assert len(set(psutil.Process().children()) - others) == 2


async def test_the_templates_own_message_comes_through():
    async with renderer(processes=1) as pool:
        with pytest.raises(TemplateFailed, match=r"^only two turns$"):
            await pool.render("{{ raise_exception('only two turns') }}", {})


async def test_a_process_renders_what_jinja_renders():
    variables = {"messages": [{"role": "user", "content": "é\ud7ff😀\n"}], "bos_token": "<s>", "eos_token": "</s>"}
    async with renderer(processes=1) as pool:
        for chat_format in FORMATS.values():
            expected = await InProcessRenderer().render(chat_format.source, variables)
            assert await pool.render(chat_format.source, variables) == expected


async def test_too_much_input_is_refused_before_it_is_sent():
    async with renderer(processes=1) as pool:
        with pytest.raises(InvalidInput, match=r"100\d{3} bytes.*100000 are rendered") as refusal:
            await pool.render(GOOD, {"name": "x" * 100_000})
        assert refusal.value.field == "messages"


@pytest.mark.parametrize("megabytes", [1, 16])
async def test_the_limits_for_chats_of_a_size_let_such_a_chat_through(megabytes):
    content = "😀\n" * (megabytes * 2**20 // 5)
    limits = RenderLimits.for_chats_of(megabytes * 2**20, seconds=10)
    pool = TemplateRenderer(limits, processes=1)
    await pool.start()
    try:
        assert (
            await pool.render("<s>{{ content | trim + '</s>' }}", {"content": content}) == f"<s>{content.strip()}</s>"
        )
    finally:
        await pool.close()


async def test_more_chats_than_may_wait_are_refused():
    async with renderer(processes=1, max_waiting=2) as pool:
        busy = asyncio.create_task(pool.render(FOREVER, {}))
        await asyncio.sleep(0)  # it reaches the queue,
        await asyncio.sleep(0)  # and its process takes it
        waiting = [asyncio.create_task(pool.render(GOOD, {})) for _ in range(3)]
        with pytest.raises(RenderQueueFull):
            await waiting[2]
        with pytest.raises(TemplateTooSlow):
            await busy
        assert await asyncio.gather(*waiting[:2]) == ["Hello !", "Hello !"]


async def test_a_caller_who_leaves_disturbs_nobody():
    async with renderer(processes=1) as pool:
        leaving = [asyncio.create_task(pool.render(FOREVER, {})) for _ in range(2)]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        assert await pool.render(GOOD, {"name": "you"}) == "Hello you!"


async def test_a_process_that_died_while_idle_is_replaced_unseen():
    async with renderer(processes=1) as pool:
        (pid,) = pool.process_ids
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while pool.process_ids:  # noqa: ASYNC110 - the death of a process sets no event of ours
                await asyncio.sleep(0)
        assert await pool.render(GOOD, {"name": "you"}) == "Hello you!"


async def test_closing_leaves_no_process_and_answers_who_waits():
    async with renderer(processes=2) as pool:
        processes = [psutil.Process(pid) for pid in pool.process_ids]
        waiting = [asyncio.create_task(pool.render(FOREVER, {})) for _ in range(4)]
        await asyncio.sleep(0)
        await pool.close()
        assert {type(error) for error in await asyncio.gather(*waiting, return_exceptions=True)} == {RendererClosed}
        assert not any(process.is_running() for process in processes)
        with pytest.raises(RendererClosed):
            await pool.render(GOOD, {})


SERVICE = f"""
import asyncio
from tokenizer_service.templates.render_limits import RenderLimits
from tokenizer_service.templates.template_renderer import TemplateRenderer

async def main():
    pool = TemplateRenderer(RenderLimits(seconds=0.4), processes=2)
    await pool.start()
    busy = asyncio.create_task(pool.render({FOREVER!r}, {{}}))
    for _ in range(3):
        await asyncio.sleep(0)  # until a process has the job
    print(*pool.process_ids, flush=True)
    await busy

asyncio.run(main())
"""


def test_render_processes_end_with_a_killed_service():
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, cwd=root) as service:
        assert service.stdout is not None
        children = [psutil.Process(int(pid)) for pid in service.stdout.readline().split()]
        service.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert len(children) == 2
        assert not alive
