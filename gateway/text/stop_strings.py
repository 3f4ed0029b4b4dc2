"""Stop strings: found across tokens and deltas at any position of an output's text, in time linear in the text.

The match that is completed first wins; of several completed by the same character, the longest, so that the text left
over does not depend on the order in which the strings were given. Text that may be the beginning of a match is held
back, and nothing more: less than the longest stop string.
The automaton is Aho and Corasick's ("Efficient string matching", 1975), over characters: UTF-8 never matches in the
middle of one, so byte positions would find the same.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(slots=True)
class _State:
    """The longest end of the text so far with which some stop string begins."""

    length: int
    shorter: int = 0  # the state of the next shorter such end
    held: int = 0  # characters of it that may still become a match
    completed: str = ""  # the longest stop string that the text ends with
    following: dict[str, int] = field(default_factory=dict)


class StopStrings:
    """The stop strings of a request as an automaton; immutable, shared by the request's outputs.

    One state per character of the strings, which the edge has checked to be few, short and not empty.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        assert all(stop_strings), "an empty stop string matches everywhere"
        self.states = [_State(length=0)]
        for stop_string in stop_strings:
            self._add(stop_string)
        self._link()
        beginnings = "".join(re.escape(character) for character in self.states[0].following)
        self.beginning = re.compile(f"[{beginnings}]" if beginnings else r"(?!)")

    def next(self, number: int, character: str) -> int:
        """The state that `character` leads to from state `number`."""
        state = self.states[number]
        while state.length and character not in state.following:
            state = self.states[state.shorter]
        return state.following.get(character, 0)

    def _add(self, stop_string: str) -> None:
        state = self.states[0]
        for character in stop_string:
            if character not in state.following:
                state.following[character] = len(self.states)
                self.states.append(_State(length=state.length + 1))
            state = self.states[state.following[character]]
        state.completed = stop_string

    def _link(self) -> None:
        """Fill in what depends on shorter states, breadth first so that those are ready."""
        waiting = deque(self.states[0].following.values())
        while waiting:
            state = self.states[waiting.popleft()]
            shorter = self.states[state.shorter]
            state.held = state.length if state.following else shorter.held
            state.completed = state.completed or shorter.completed
            for character, number in state.following.items():
                self.states[number].shorter = self.next(state.shorter, character)
                waiting.append(number)


class Match(NamedTuple):
    """A completed stop string."""

    stop_string: str
    end: int  # characters of the text just pushed, up to the end of the match


class Scan(NamedTuple):
    """What can be said after a push; with a match, the last of the output's text."""

    text: str
    match: Match | None = None


class StopMatcher:
    """Looks for stop strings in the text of one output, given in parts. Nothing may be pushed after a match."""

    def __init__(self, stop_strings: StopStrings, *, include_stop: bool = False) -> None:
        self._automaton = stop_strings
        self._include_stop = include_stop
        self._state = 0
        self._held = ""

    def push(self, text: str) -> Scan:
        """Append `text` and look for a match that it completes."""
        end = self._advance(text, until_match=True)
        if not end:
            return Scan(self._release(text))
        stop_string = self._automaton.states[self._state].completed
        said = self._held + text[:end]
        self._held = ""
        return Scan(said if self._include_stop else said[: -len(stop_string)], Match(stop_string, end))

    def skip(self, text: str) -> str:
        """Append `text`, in which matches do not count; a match may begin in it. Returns what can be said."""
        self._advance(text, until_match=False)
        return self._release(text)

    def flush(self) -> str:
        """No text will follow: what was held back."""
        held, self._held = self._held, ""
        return held

    def _advance(self, text: str, *, until_match: bool) -> int:
        """Run over `text`; returns where the first match ends, 0 if none."""
        automaton, state, position = self._automaton, self._state, 0
        while position < len(text):
            if not state:  # most text: jump to where a match could begin
                beginning = automaton.beginning.search(text, position)
                if beginning is None:
                    break
                position = beginning.start()
            state = automaton.next(state, text[position])
            position += 1
            if until_match and automaton.states[state].completed:
                self._state = state
                return position
        self._state = state
        return 0

    def _release(self, text: str) -> str:
        # A stop string that stays in the text is sent in any case: nothing has to wait for it.
        held = 0 if self._include_stop else self._automaton.states[self._state].held
        text = self._held + text
        said, self._held = text[: len(text) - held], text[len(text) - held :]
        return said
