from __future__ import annotations

import pytest

from gateway.tenants import TenantSettingError, check_key, tenant_of, weights_from
from rpc.errors import ServiceError

KEY = "x-tenant-id"


def test_the_tenant_is_what_the_metadata_says():
    assert tenant_of([("other", "b"), (KEY, "team-a")], KEY) == "team-a"
    assert tenant_of([("other", "b")], KEY) == ""


@pytest.mark.parametrize("value", ["", "a b", "é", "x" * 129, b"bytes"])
def test_a_name_that_no_log_could_show_is_refused_by_the_name_of_its_key(value: str | bytes):
    with pytest.raises(ServiceError) as caught:
        tenant_of([(KEY, value)], KEY)
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", KEY)


@pytest.mark.parametrize("key", ["X-Tenant", "", "grpc-tenant", "tenant-bin", "a b"])
def test_a_key_that_metadata_cannot_have_is_refused(key: str):
    with pytest.raises(TenantSettingError):
        check_key(key)


def test_weights_are_read_by_name():
    check_key(KEY)
    assert weights_from(["a=2", "b:c=0.5"]) == {"a": 2.0, "b:c": 0.5}


@pytest.mark.parametrize("setting", ["a", "a=", "=1", "a=0", "a=-1", "a=inf", "a=nan", "a b=1"])
def test_a_weight_that_cannot_be_is_refused(setting: str):
    with pytest.raises(TenantSettingError):
        weights_from([setting])
