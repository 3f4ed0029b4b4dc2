"""Hears how far transformers is with loading weights, in place of the progress bars it would print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils.logging import set_tqdm_hook


@contextmanager
def weight_progress(report: Callable[[float], None]) -> Iterator[None]:
    """Call `report` with the fraction of tensors loaded (0 to 1) until the end of the block; no bar is printed."""

    def bar(_factory: object, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> _SilentBar:
        return _SilentBar(arguments[0] if arguments else keywords.get("iterable", ()), report)

    previous = set_tqdm_hook(bar)
    try:
        yield
    finally:
        set_tqdm_hook(previous)


class _SilentBar:
    """As much of a tqdm bar as a loop over tensors uses."""

    def __init__(self, items: Any, report: Callable[[float], None]) -> None:
        self._items = items
        self._report = report

    def __iter__(self) -> Iterator[Any]:
        total = len(self._items)
        for done, item in enumerate(self._items, start=1):
            yield item
            self._report(done / total)
