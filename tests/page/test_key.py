"""The page of a gateway that asks for keys, in a real browser: it asks for one, and shows what that is for."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import async_playwright, expect

from tests.end_to_end.access import NARROW_KEY, RIGHT_KEY, entry, write_keys
from tests.end_to_end.http import http_stack, url_of
from tests.end_to_end.stack import NAME, tokenizer_tier

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_page_asks_for_a_key_and_uses_it(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY), entry(NARROW_KEY, models=[NAME]))
    async with (
        tokenizer_tier(tmp_path / "tiny") as tier,
        http_stack(tier, gateway={"api_key_file": keys}) as (stack, _),
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(f"{url_of(stack)}/")
        await expect(page.locator("#key")).to_be_visible()
        await page.fill("#key", NARROW_KEY)
        await expect(page.locator("#model option")).to_have_count(1)
        await page.fill("#key", RIGHT_KEY)
        await expect(page.locator("#state")).to_contain_text("1 of 1 workers ready")
        await page.fill("#max_tokens", "8")
        await page.fill("#text", "A list of colors")
        await page.click("#send")
        await expect(page.locator("#numbers")).to_contain_text("8 tokens, length")
        snippet = await page.text_content("#snippet") or ""
        assert "$TOKENMILL_API_KEY" in snippet
        assert RIGHT_KEY not in snippet
        await browser.close()
