"""The page as a person uses it, in a real browser, against the three services on the demo model."""

from __future__ import annotations

import asyncio
import io
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf import json_format
from playwright.async_api import Browser, Page, async_playwright, expect

from cli.local_stack import LocalStack, Ports, StackOptions
from cli.progress import StartProgress
from tokenmill.v1 import gateway_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

QUESTION = "What is the capital of France?"
LONG = "Tell me a long story about a river, a bridge and a farmer."
PATIENCE_MS = 30_000
WIDE, NARROW = (1240, 860), (380, 760)
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(demo_model: Path) -> AsyncIterator[LocalStack]:
    options = StackOptions(demo_model, "smollm2-135m-instruct", Ports(0, 0, 0, 0), ("--quantization", "int8"))
    async with LocalStack(options, StartProgress(io.StringIO())) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(stack: LocalStack, browser: Browser) -> AsyncIterator[Page]:
    async with Opened(stack, browser, WIDE) as opened:
        yield opened


class Opened:
    """The page in a window of its own, ready; whatever the browser complains of fails the test."""

    def __init__(self, stack: LocalStack, browser: Browser, size: tuple[int, int], scheme: Any = "light") -> None:
        self._stack = stack
        self._browser = browser
        self._size = size
        self._scheme = scheme
        self._complaints: list[str] = []

    async def __aenter__(self) -> Page:
        width, height = self._size
        viewport: Any = {"width": width, "height": height}
        self._page = await self._browser.new_page(viewport=viewport, color_scheme=self._scheme, device_scale_factor=2)
        self._page.set_default_timeout(PATIENCE_MS)
        self._page.on("pageerror", lambda error: self._complaints.append(str(error)))
        self._page.on("console", self._hear)
        await self._page.goto(f"http://{self._stack.http_address}/")
        await expect(self._page.locator("#state")).to_have_text("1 of 1 workers ready", timeout=PATIENCE_MS)
        await self._page.locator("#max_tokens").fill("24")
        await self._page.locator("#temperature").fill("0")
        return self._page

    async def __aexit__(self, *_: object) -> None:
        await self._page.close()
        assert self._complaints == []

    def _hear(self, message: Any) -> None:
        # A refused request is logged by the browser itself.
        if message.type in {"error", "warning"} and "status of 400" not in message.text:
            self._complaints.append(message.text)


async def ask(page: Page, text: str) -> None:
    await page.locator("#text").fill(text)
    await page.keyboard.press("Enter")


async def answered(page: Page) -> str:
    """The last answer, once it is over."""
    await expect(page.locator("#numbers")).to_contain_text("tokens,", timeout=PATIENCE_MS)
    return await page.locator(".message").last.inner_text()


async def test_an_answer_is_streamed(page: Page) -> None:
    await page.evaluate("""() => {
        window.lengths = [];
        new MutationObserver(() => window.lengths.push(document.querySelector("#talk").textContent.length))
          .observe(document.querySelector("#talk"), { childList: true, subtree: true, characterData: true });
    }""")
    await ask(page, QUESTION)
    assert "Paris" in await answered(page)
    lengths = await page.evaluate("window.lengths")
    assert len(set(lengths)) > 5, "the text came piece by piece"
    numbers = await page.locator("#numbers").inner_text()
    assert "first token" in numbers
    assert "tokens/s" in numbers
    await expect(page.locator(".message").first).to_have_text(QUESTION)
    await ask(page, "And of Italy?")
    await answered(page)
    assert await page.locator(".message").count() == 4


@pytest.mark.parametrize("how", ["key", "button"])
async def test_an_answer_can_be_stopped(page: Page, how: str) -> None:
    await page.locator("#max_tokens").fill("2000")
    await ask(page, LONG)
    await expect(page.locator("#numbers")).to_contain_text("tokens/s", timeout=PATIENCE_MS)
    if how == "key":
        await page.keyboard.press("Escape")
    else:
        await page.locator("#stop").click()
    await expect(page.locator("#numbers")).to_contain_text("stopped")
    await expect(page.locator("#send")).to_be_enabled()
    await expect(page.locator("#workers")).to_contain_text("0 running", timeout=PATIENCE_MS)


async def test_parameters_are_sent(page: Page) -> None:
    await page.locator("#temperature").fill("1.5")
    await page.locator("#seed").fill("7")
    await page.locator("#system").fill("Answer in French.")
    texts = []
    for seed in ("7", "7", "8"):
        await page.locator("#seed").fill(seed)
        await page.locator("#clear").click()
        async with page.expect_request("**/v1/chat/completions") as sent:
            await ask(page, LONG)
        body = json.loads((await sent.value).post_data or "")
        assert (body["temperature"], body["seed"], body["max_tokens"]) == (1.5, int(seed), 24)
        assert body["messages"][0] == {"role": "system", "content": "Answer in French."}
        texts.append(await answered(page))
    assert texts[0] == texts[1] != texts[2]


async def test_a_new_chat_forgets_even_an_answer_that_was_running(page: Page) -> None:
    await page.locator("#max_tokens").fill("2000")
    await ask(page, LONG)
    await expect(page.locator("#numbers")).to_contain_text("tokens/s", timeout=PATIENCE_MS)
    await page.locator("#clear").click()
    await expect(page.locator("#send")).to_be_enabled()
    await page.locator("#max_tokens").fill("24")
    async with page.expect_request("**/v1/chat/completions") as sent:
        await ask(page, QUESTION)
    assert json.loads((await sent.value).post_data or "")["messages"] == [{"role": "user", "content": QUESTION}]
    await answered(page)


async def test_tokens_are_made_visible_by_mouse_and_by_keyboard(page: Page) -> None:
    await page.locator("#shades").check()
    await ask(page, QUESTION)
    await answered(page)
    tokens = page.locator(".token")
    assert await tokens.count() >= 5
    await tokens.nth(2).hover()
    hint = page.locator("#hint")
    await expect(hint).to_be_visible()
    shown = await hint.inner_text()
    assert shown.startswith("id ")
    assert shown.count("%") == 6, "its own probability and five alternatives"
    await page.mouse.move(2, 2)
    await tokens.first.focus()
    first = await hint.inner_text()
    await page.keyboard.press("ArrowRight")
    await expect(hint).not_to_have_text(first)
    doubt = await tokens.evaluate_all("all => all.map(one => Number(one.style.getPropertyValue('--doubt')))")
    assert all(0 <= one <= 1 for one in doubt)
    assert len(set(doubt)) > 3


async def test_a_refusal_is_shown_and_what_was_asked_is_not_lost(page: Page) -> None:
    await page.locator("#temperature").fill("-1")
    await ask(page, QUESTION)
    await expect(page.locator(".message.failed")).to_contain_text("temperature")
    await expect(page.locator("#text")).to_have_value(QUESTION)
    await page.locator("#temperature").fill("0")
    await page.keyboard.press("Tab")
    await page.locator("#text").press("Enter")
    assert "Paris" in await answered(page)


async def test_a_question_that_failed_is_not_asked_with_the_next_one(page: Page) -> None:
    await page.locator("#temperature").fill("-1")
    await page.route("**/v1/chat/completions", hold := Held())
    await ask(page, LONG)
    await page.locator("#text").fill(QUESTION)  # typed meanwhile
    hold.let_go.set()
    await expect(page.locator(".message.failed")).to_contain_text("temperature")
    await expect(page.locator("#text")).to_have_value(QUESTION)
    await page.locator("#temperature").fill("0")
    async with page.expect_request("**/v1/chat/completions") as sent:
        await page.locator("#text").press("Enter")
    assert json.loads((await sent.value).post_data or "")["messages"] == [{"role": "user", "content": QUESTION}]
    await answered(page)


class Held:
    """A request that goes on when it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def __call__(self, route: Any) -> None:
        await self.let_go.wait()
        await route.continue_()


async def test_the_snippets_do_what_the_page_does(page: Page) -> None:
    await page.locator("#system").fill('It\'s "important": be brief.')
    await ask(page, QUESTION)
    text = (await answered(page)).removeprefix("assistant").strip()
    await page.locator("details summary").click()
    await page.locator("#clear").click()
    snippets = {}
    for name in ("curl", "Python", "gRPC"):
        await page.get_by_role("tab", name=name).click()
        snippets[name] = (await page.locator("#snippet").inner_text()).replace("Hello!", QUESTION)
    events = await run("bash", "-c", snippets["curl"] + " -sS")
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
    assert await run(sys.executable, "-c", snippets["Python"]) == text
    data = shlex.split(snippets["gRPC"])[3]
    asked = json_format.Parse(data, gateway_pb2.ChatRequest())
    assert [message.role for message in asked.messages] == ["system", "user"]
    assert asked.stopping.max_new_tokens == 24


async def test_a_narrow_window_and_the_keyboard_are_enough(stack: LocalStack, browser: Browser) -> None:
    async with Opened(stack, browser, NARROW, scheme="dark") as page:
        await page.locator("#text").focus()
        await page.keyboard.type(QUESTION)
        await page.keyboard.press("Enter")
        assert "Paris" in await answered(page)
        await page.evaluate("scrollTo(0, 0)")
        await page.screenshot(path=IMAGES / "page-narrow.png")


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_nothing_is_cut_off(stack: LocalStack, browser: Browser, size: tuple[int, int]) -> None:
    async with Opened(stack, browser, size) as page:
        await page.locator("details summary").click()
        for name in ("curl", "Python", "gRPC"):
            await page.get_by_role("tab", name=name).click()
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_pictures_for_the_documentation(page: Page) -> None:
    await page.locator("#shades").check()
    await page.locator("#max_tokens").fill("80")
    await ask(page, "Why is the sky blue?")
    await answered(page)
    await page.locator("details summary").click()
    await page.locator(".token").nth(12).hover()
    await page.screenshot(path=IMAGES / "page.png")


async def run(*command: str) -> str:
    """The output of a program, which has to succeed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()
