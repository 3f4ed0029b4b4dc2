"""Workers whose vocabulary is not the tokenizer service's: told once for each of their starts, and counted."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import pytest

from gateway.fleet.vocabularies import Vocabularies
from gateway.models import ServedModel
from rpc.log import FIELDS
from tests.gateway.test_pipeline import model


@dataclass
class Worker:
    instance_id: str
    fingerprint: str
    is_ready: bool = True
    target: str = "somewhere:1"

    @property
    def models(self) -> list[ServedModel]:
        served = dataclasses.replace(model(), name="m", base="m", vocabulary_fingerprint=self.fingerprint)
        return [served, dataclasses.replace(served, name="adapter")]


def test_a_worker_with_another_vocabulary_is_told_of_once_with_both_fingerprints(caplog: pytest.LogCaptureFixture):
    wrong = Worker("1", "theirs")
    vocabularies = Vocabularies([Worker("0", "ours"), wrong])
    with caplog.at_level(logging.ERROR, "tokenmill.gateway.vocabularies"):
        vocabularies.check()
        assert not caplog.records, "nobody knows yet which one is wrong"
        for _ in range(3):
            vocabularies.learn("m", "ours")
            vocabularies.check()
    assert len(caplog.records) == vocabularies.refused_workers == 1
    fields = getattr(caplog.records[0], FIELDS)
    assert (fields["instance_id"], fields["model"]) == ("1", "m")
    assert (fields["worker_fingerprint"], fields["tokenizer_fingerprint"]) == ("theirs", "ours")
    assert [vocabularies.is_expected(model) for model in wrong.models] == [False, False]


def test_each_start_counts():
    worker = Worker("1", "theirs")
    vocabularies = Vocabularies([worker])
    vocabularies.learn("m", "ours")
    for start in range(2, 5):
        worker.instance_id = str(start)
        vocabularies.check()
    assert vocabularies.refused_workers == 4


def test_one_that_is_not_ready_is_looked_at_when_it_is():
    worker = Worker("1", "theirs", is_ready=False)
    vocabularies = Vocabularies([worker])
    vocabularies.learn("m", "ours")
    assert vocabularies.refused_workers == 0
    worker.is_ready = True
    vocabularies.check()
    assert vocabularies.refused_workers == 1


def test_a_model_of_which_nothing_is_known_is_as_expected():
    vocabularies = Vocabularies([])
    vocabularies.learn("other", "ours")
    assert vocabularies.is_expected(Worker("1", "theirs").models[0])
