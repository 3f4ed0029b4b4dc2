"""Unless the operator says otherwise, waiting threads spin briefly."""

import pytest

from model_worker.engines.waiting_threads import spin_briefly


@pytest.mark.parametrize(
    ("said", "spins"),
    [
        ({}, "3000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
        ({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}, "7"),
    ],
)
def test_the_operator_has_the_last_word(monkeypatch, said, spins):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    environment = dict(said)
    monkeypatch.setattr("os.environ", environment)
    spin_briefly()
    assert environment.get("GOMP_SPINCOUNT") == spins
