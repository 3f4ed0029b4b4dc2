"""Render processes start wherever the service was started from."""

from __future__ import annotations

import pytest

from tokenizer_service.templates.render_child import RenderChild
from tokenizer_service.templates.render_limits import RenderLimits


@pytest.mark.parametrize("search_path", [None, "", "protos", "/nowhere:"])
async def test_a_render_process_starts_from_any_folder_with_any_search_path(tmp_path, monkeypatch, search_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if search_path is not None:
        monkeypatch.setenv("PYTHONPATH", search_path)
    child = await RenderChild.start(RenderLimits())
    try:
        assert await child.render(b'{"template": "Hello {{ name }}!", "variables": {"name": "you"}}') == "Hello you!"
    finally:
        await child.kill()
