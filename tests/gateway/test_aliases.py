"""Names that lead to models: what an operator may write, and what a caller finds under them."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from gateway.access.identity import ALL_MODELS
from gateway.aliases import AliasError, parse_aliases
from gateway.catalogue import Catalogue
from rpc.errors import ServiceError
from tests.gateway.test_pipeline import model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.models import ServedModel

SMALL = dataclasses.replace(model(), name="small", base="small", vocabulary_fingerprint="s")
LARGE = dataclasses.replace(model(), name="large", base="large", vocabulary_fingerprint="l")
POET = dataclasses.replace(SMALL, name="poet")


@dataclass
class Workers:
    ready: Sequence[ServedModel]
    known: Sequence[ServedModel] = ()
    unexpected: Sequence[ServedModel] = ()

    def ready_models(self) -> Sequence[ServedModel]:
        return self.ready

    def known_models(self) -> Sequence[ServedModel]:
        return [*self.known, *self.ready]

    def is_expected(self, model: ServedModel) -> bool:
        return model not in self.unexpected


def test_an_alias_leads_to_a_model_or_on_to_another_alias():
    assert parse_aliases(["chat=fast", "fast=small", "verse=poet"]) == {
        "chat": "small",
        "fast": "small",
        "verse": "poet",
    }
    assert parse_aliases([]) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["chat"], "'chat' is not NAME=MODEL"),
        (["=small"], "'=small' is not NAME=MODEL"),
        (["chat="], "'chat=' is not NAME=MODEL"),
        (["chat=a=b"], "'chat=a=b' is not NAME=MODEL"),
        (["chat= small"], "'chat= small' is not NAME=MODEL"),
        (["chat=small", "chat=large"], "the alias 'chat' is given twice"),
        (["chat=chat"], "the alias 'chat' leads in a circle: chat = chat"),
        (["a=b", "b=c", "c=a"], "the alias 'a' leads in a circle: a = b = c = a"),
        (["a=b", "b=c", "c=b"], "the alias 'a' leads in a circle: a = b = c = b"),
    ],
)
def test_an_alias_that_leads_nowhere_is_refused(given: list[str], message: str):
    with pytest.raises(AliasError) as refusal:
        parse_aliases(given)
    assert str(refusal.value) == message


def test_models_are_found_by_their_own_names_and_by_their_aliases():
    catalogue = Catalogue(Workers([SMALL, POET, LARGE]), {"chat": "small", "verse": "poet", "talk": "small"})
    assert [catalogue.find(name, ALL_MODELS) for name in ("small", "chat", "talk", "poet", "verse", "large")] == [
        *(SMALL, SMALL, SMALL),
        *(POET, POET, LARGE),
    ]
    assert [catalogue.aliases_of(model) for model in (SMALL, POET, LARGE)] == [["chat", "talk"], ["verse"], []]


def test_what_is_not_served_is_not_found_under_the_name_the_caller_knows():
    catalogue = Catalogue(Workers([SMALL]), {"chat": "large"})
    for name in ("chat", "large", "medium"):
        with pytest.raises(ServiceError, match=f"model '{name}' is not served here") as refusal:
            catalogue.find(name, ALL_MODELS)
        assert refusal.value.code is grpc.StatusCode.NOT_FOUND


def test_without_a_name_the_only_model_is_meant_whatever_its_aliases():
    assert Catalogue(Workers([SMALL, POET]), {"chat": "small", "talk": "small"}).find("", ALL_MODELS) is SMALL
    with pytest.raises(ServiceError, match="must be one of chat, large, small: several models") as refusal:
        Catalogue(Workers([SMALL, LARGE]), {"chat": "small"}).find("", ALL_MODELS)
    assert refusal.value.field == "model"


def test_an_alias_hides_a_model_of_its_name_and_says_so_once(caplog: pytest.LogCaptureFixture):
    catalogue = Catalogue(Workers([SMALL, LARGE]), {"small": "large"})
    with caplog.at_level(logging.WARNING, "tokenmill.gateway.catalogue"):
        assert [catalogue.find("small", ALL_MODELS) for _ in range(3)] == [LARGE] * 3
        assert catalogue.models(ALL_MODELS) == [LARGE]
    assert [record.message for record in caplog.records] == ["model hidden by an alias"]


def test_of_one_name_the_description_is_believed_whose_vocabulary_is_the_tokenizer_services():
    other = dataclasses.replace(SMALL, vocabulary_fingerprint="other")
    for ready in ([SMALL, other, SMALL], [other, SMALL, SMALL]):
        catalogue = Catalogue(Workers(ready, unexpected=[other]), {})
        assert catalogue.find("small", ALL_MODELS) is SMALL
        assert catalogue.ready_workers(SMALL) == 2


def test_a_model_stays_known_when_its_workers_are_down():
    catalogue = Catalogue(Workers([LARGE], known=[SMALL]), {})
    assert catalogue.models(ALL_MODELS) == [LARGE, SMALL]
    assert catalogue.ready_workers(SMALL) == 0


def test_without_any_model_there_is_no_worker_yet():
    with pytest.raises(ServiceError) as refusal:
        Catalogue(Workers([]), {}).find("small", ALL_MODELS)
    assert refusal.value.reason == "NO_WORKER"
