"""The key file: what it may say, and what is refused."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.access.identity import ALL_MODELS, Identity, Permission
from gateway.access.keys import read_keys
from gateway.access.quotas import Quotas
from rpc.errors import ServiceError
from rpc.reloaded import RefusedContentError

if TYPE_CHECKING:
    from pathlib import Path

KEY = "a-long-random-text"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def written(folder: Path, content: Any) -> Path:
    file = folder / "keys"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml = f"""
        [[keys]]
        name = "billing"
        sha256 = "{DIGEST}"
        tenant = "finance"
        models = ["tiny", "small"]
        max_inflight = 8
        requests_per_minute = 600
        expires = 2030-01-01T12:00:01Z
        """
    entry = {"name": "billing", "sha256": DIGEST.upper(), "tenant": "finance", "models": ["tiny", "small"]}
    more = {"max_inflight": 8, "requests_per_minute": 600, "expires": "2030-01-01T13:00:01+01:00"}
    expected = Identity("billing", "finance", Permission(frozenset({"tiny", "small"})), 8, 600)
    for content in (toml, {"keys": [entry | more]}):
        ring = read_keys(written(tmp_path, content))
        assert ring.identity(KEY, NOW) == expected
        with pytest.raises(ServiceError) as caught:
            ring.identity(KEY, NOW + timedelta(seconds=1))
        assert caught.value.reason == "EXPIRED_CREDENTIALS"


def test_little_is_enough(tmp_path: Path) -> None:
    ring = read_keys(written(tmp_path, {"keys": [{"name": "billing", "sha256": DIGEST}]}))
    assert ring.identity(KEY, NOW) == Identity("billing", "billing", ALL_MODELS)
    assert ring.identity(KEY + "x", NOW) is None
    assert ring.identity(DIGEST, NOW) is None


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    assert read_keys(written(tmp_path, {"keys": []})).identity(KEY, NOW) is None


REFUSED: dict[str, Any] = {
    "no TOML and no JSON": "[[keys",
    "nothing": "",
    "another field": {"keys": [], "key": 1},
    "no array": {"keys": {}},
    "an entry that is no table": {"keys": [1]},
    "no name": {"keys": [{"sha256": DIGEST}]},
    "a name that cannot be printed": {"keys": [{"name": "a\nb", "sha256": DIGEST}]},
    "no digest": {"keys": [{"name": "a"}]},
    "a key instead of its digest": {"keys": [{"name": "a", "sha256": KEY}]},
    "half a digest": {"keys": [{"name": "a", "sha256": DIGEST[:32]}]},
    "a field that is misspelt": {"keys": [{"name": "a", "sha256": DIGEST, "expire": "2030-01-01T00:00:00Z"}]},
    "models that are no list": {"keys": [{"name": "a", "sha256": DIGEST, "models": "tiny"}]},
    "a limit of nothing": {"keys": [{"name": "a", "sha256": DIGEST, "max_inflight": 0}]},
    "a limit that is no number": {"keys": [{"name": "a", "sha256": DIGEST, "requests_per_minute": True}]},
    "no time": {"keys": [{"name": "a", "sha256": DIGEST, "expires": "soon"}]},
    "a name twice": {"keys": [{"name": "a", "sha256": DIGEST}, {"name": "a", "sha256": DIGEST[::-1]}]},
    "a key twice": {"keys": [{"name": "a", "sha256": DIGEST}, {"name": "b", "sha256": DIGEST}]},
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_what_is_not_understood_is_refused_and_not_repeated(tmp_path: Path, content: Any) -> None:
    with pytest.raises(RefusedContentError, match="--api-key-file") as caught:
        read_keys(written(tmp_path, content))
    assert KEY not in str(caught.value)
    assert DIGEST not in str(caught.value)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_requests_of_a_minute_come_back_evenly() -> None:
    clock = Clock()
    quotas, identity = Quotas(clock), Identity("billing", "billing", requests_per_minute=2)

    def ask() -> None:
        with quotas.request(identity):
            pass

    ask()
    ask()
    with pytest.raises(ServiceError) as caught:
        ask()
    assert caught.value.retry_after_seconds == 30
    clock.now += 30
    ask()
    with pytest.raises(ServiceError):
        ask()
    clock.now += 3600  # no more than a minute's are saved up
    ask()
    ask()
    with pytest.raises(ServiceError):
        ask()


def test_a_refused_request_takes_no_place() -> None:
    quotas, identity = Quotas(Clock()), Identity("billing", "billing", max_inflight=1)
    with quotas.request(identity):
        for _ in range(2):
            with pytest.raises(ServiceError), quotas.request(identity):
                pass
    with quotas.request(identity):
        pass
