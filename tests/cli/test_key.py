"""`tokenmill key`: what it writes, the gateway reads, and what the gateway would refuse, it refuses itself."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.__main__ import main
from cli.failure import WRONG_USAGE
from cli.key import PREFIX
from gateway.access.keys import KeyRing, read_keys
from rpc.reloaded import RefusedContentError

NOW = datetime.now(UTC)


def made(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `tokenmill key arguments…`."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main(["key", *arguments])
    return code, output.getvalue(), errors.getvalue()


def understood(content: str) -> KeyRing:
    """What the gateway makes of a file. Errors: RefusedContentError."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys"
        file.write_text(content, encoding="utf-8")
        return read_keys(file)


def test_what_it_writes_is_what_it_was_told() -> None:
    expires = (NOW + timedelta(days=1)).isoformat()
    own = ("--tenant", "finance", "--model", "tiny", "--model", "größer", "--max-inflight", "4", "--expires", expires)
    code, entry, said = made("billing", *own)
    assert code == 0
    key = said.removeprefix("key: ").strip()
    assert key.startswith(PREFIX)
    holder = understood(entry).identity(key, NOW)
    assert holder is not None
    assert (holder.name, holder.tenant, holder.max_inflight) == ("billing", "finance", 4)
    assert holder.permission.models == {"tiny", "größer"}


WRONG = {
    "an empty name": (("", ""), "NAME"),
    "a name with a space": (("a b", ""), "NAME"),
    "a name that is too long": (("x" * 129, ""), "NAME"),
    "a name with a line's end": (("x\n", ""), "NAME"),
    "letters that are not ASCII's": (("büro", ""), "NAME"),
    "a tenant with a space": (("x", "--tenant=a\tb"), "--tenant"),
    "what argparse takes for no value": (("x", "--tenant=--"), "--tenant"),
    "an empty tenant": (("x", "--tenant="), "--tenant"),
    "an empty model": (("x", "--model="), "--model"),
    "a model with a control character": (("x", "--model=a\x7f"), "--model"),
    "none at once": (("x", "--max-inflight=0"), "--max-inflight"),
    "none in a minute": (("x", "--requests-per-minute=-1"), "--requests-per-minute"),
    "no time": (("x", "--expires=tomorrow"), "--expires"),
    "a day that is not there": (("x", "--expires=2030-02-30"), "--expires"),
    "a time that is over": (("x", "--expires=2020-01-01T00:00:00Z"), "--expires"),
    "one that is over in its zone": (("x", f"--expires={(NOW - timedelta(hours=1)).isoformat()}"), "--expires"),
}


@pytest.mark.parametrize(("arguments", "named"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_and_no_key_is_made(arguments: tuple[str, str], named: str) -> None:
    name, flag = arguments
    code, output, errors = made(*([flag] if flag else []), "--", name)
    assert (code, output) == (WRONG_USAGE, "")
    assert errors.startswith(f"tokenmill: {named}: ")
    assert PREFIX not in errors


TEXTS = st.text(max_size=6) | st.text("aZ09._:/+=@- ", max_size=4) | st.sampled_from(["x" * 128, "x" * 129])
TIMES = st.datetimes(timezones=st.timezones() | st.none()).map(str) | st.text("0123456789-:TZ+. ", max_size=12)


@settings(deadline=None)
@given(name=TEXTS, tenant=st.none() | TEXTS, models=st.lists(TEXTS, max_size=2), count=st.none() | st.integers(-2, 2))
def test_it_accepts_what_the_gateway_does(name: str, tenant: str | None, models: list[str], count: int | None) -> None:
    flags = [f"--model={model}" for model in models]
    flags += [] if tenant is None else [f"--tenant={tenant}"]
    flags += [] if count is None else [f"--max-inflight={count}"]
    code, output, _ = made(*flags, "--", name)
    entry: dict[str, Any] = {"name": name, "sha256": "0" * 64, "models": models}
    entry |= {} if tenant is None else {"tenant": tenant}
    entry |= {} if count is None else {"max_inflight": count}
    is_fine = is_understood(json.dumps({"keys": [entry]}))
    if code == 0:
        assert is_fine
        assert is_understood(output)
    else:  # a model's name may be anything in the file, but some can be no model's
        assert not is_fine or not all(model and model.isprintable() for model in models)


@settings(deadline=None)
@given(given_time=TIMES)
def test_it_accepts_times_that_the_gateway_does_unless_they_are_over(given_time: str) -> None:
    code, output, _ = made("x", f"--expires={given_time}")
    entry = {"name": "x", "sha256": "0" * 64, "expires": given_time}
    if code == 0:
        assert is_understood(output)
    elif is_understood(json.dumps({"keys": [entry]})):
        time = datetime.fromisoformat(given_time)
        assert (time if time.tzinfo else time.replace(tzinfo=UTC)) <= datetime.now(UTC)


def is_understood(content: str) -> bool:
    try:
        understood(content)
    except RefusedContentError:
        return False
    return True
