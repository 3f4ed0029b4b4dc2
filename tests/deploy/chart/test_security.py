"""No pod may do more than serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.deploy.chart.rendering import VALUES, render

if TYPE_CHECKING:
    from tests.deploy.chart.rendering import Deployment, Rendered

WRITABLE = {"gateway": {"/tmp"}, "tokenizer": {"/tmp"}, "worker": {"/tmp", "/dev/shm", "/var/cache/tokenmill"}}


def mounts(deployment: Deployment) -> dict[str, dict[str, Any]]:
    return {mount["mountPath"]: mount for mount in deployment.container["volumeMounts"]}


def test_containers_have_no_privilege(rendered: Rendered):
    for deployment in rendered.deployments:
        assert deployment.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert "initContainers" not in deployment.pod


def test_pods_are_of_a_user_who_is_not_root(rendered: Rendered):
    for deployment in rendered.deployments:
        context = deployment.pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert {context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_pods_share_nothing_with_their_node_and_hold_no_token(rendered: Rendered):
    (account,) = rendered.of("ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    for deployment in rendered.deployments:
        assert deployment.pod["automountServiceAccountToken"] is False
        assert deployment.pod["serviceAccountName"] == account["metadata"]["name"]
        assert not deployment.pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert not {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} & {one["kind"] for one in rendered.objects}


def test_services_of_the_namespace_become_no_options(rendered: Rendered):
    for deployment in rendered.deployments:
        assert deployment.pod["enableServiceLinks"] is False, "TOKENMILL_PORT would be one"
        assert "env" not in deployment.container


def test_only_what_has_to_be_written_can_be(rendered: Rendered):
    for deployment in rendered.deployments:
        writable = {path for path, mount in mounts(deployment).items() if not mount.get("readOnly")}
        assert writable == WRITABLE[deployment.tier]


def test_what_is_mounted_is_there_and_is_all_that_there_is(rendered: Rendered):
    for deployment in rendered.deployments:
        volumes = [volume["name"] for volume in deployment.pod["volumes"]]
        assert sorted(volumes) == sorted(mount["name"] for mount in mounts(deployment).values())
        assert len(set(volumes)) == len(volumes)


def test_temporary_files_are_bounded(rendered: Rendered):
    for deployment in rendered.deployments:
        for volume in deployment.pod["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


def test_secrets_are_the_groups_and_are_followed_when_they_change(rendered: Rendered):
    for deployment in rendered.deployments:
        of_secrets = {volume["name"] for volume in deployment.pod["volumes"] if "secret" in volume}
        for volume in deployment.pod["volumes"]:
            assert volume["name"] not in of_secrets or volume["secret"]["defaultMode"] == 0o440
        for mount in mounts(deployment).values():
            assert mount["name"] not in of_secrets or not mount.keys() & {"subPath", "subPathExpr"}


def test_every_file_that_a_service_is_told_of_is_mounted(rendered: Rendered):
    for deployment in rendered.deployments:
        volumes = {volume["name"]: volume for volume in deployment.pod["volumes"]}
        files = [value for values in deployment.arguments.values() for value in values if value.startswith("/etc/")]
        assert files
        for file in files:
            folder, _, name = file.rpartition("/")
            volume = volumes[mounts(deployment)[folder]["name"]]
            assert "configMap" in volume or name in {item["path"] for item in volume["secret"]["items"]}


def test_models_are_read_only_wherever_they_are():
    storages = [
        {"persistentVolumeClaim": {"claimName": "models"}},
        {"hostPath": {"path": "/srv/models"}},
        {"image": {"reference": "registry.example/model:1"}},
        {},
    ]
    for storage in storages:
        for deployment in render({"modelStorage": storage, "models": [{"name": "a"}]}).deployments:
            if deployment.tier != "gateway":
                assert mounts(deployment)["/models/a"]["readOnly"] is True
                (volume,) = [volume for volume in deployment.pod["volumes"] if volume["name"] == "model-a"]
                claim = volume.get("persistentVolumeClaim", {"readOnly": True})
                assert claim["readOnly"] is True, "else the cluster would take it for a writer"


def test_code_is_kept_where_nobody_else_writes(rendered: Rendered):
    for worker in rendered.tier("worker"):
        (folder,) = worker.arguments["--compile-cache"]
        assert folder.startswith("/var/cache/tokenmill/"), "a volume's own folder is its group's, too"
        assert worker.pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_callers_are_asked_who_they_are_unless_that_is_turned_off():
    for name, values in VALUES.items():
        (gateway,) = render(values).tier("gateway")
        is_asked = bool({"--api-key-file", "--jwt-jwks-file"} & gateway.arguments.keys())
        assert is_asked is (name != "plain")


def test_under_mtls_only_the_gateways_name_is_let_in():
    rendered = render(VALUES["every-object"])
    for deployment in (*rendered.tier("tokenizer"), *rendered.tier("worker")):
        assert deployment.arguments["--ssl-client-names"] == ["spiffe://example/gateway"]
        assert deployment.arguments["--ssl-ca-certs"] == ["/etc/tokenmill/tls/ca.crt"]
    (gateway,) = rendered.tier("gateway")
    assert gateway.arguments["--backend-ssl-server-name"] == ["backend.example"]


@pytest.mark.parametrize("name", [name for name in VALUES if name != "plain"])
def test_every_pod_is_behind_a_policy(name: str):
    rendered = render(VALUES[name])
    tiers = {
        policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for policy in rendered.of("NetworkPolicy")
    }
    assert tiers == {deployment.tier for deployment in rendered.deployments}
    assert {tuple(policy["spec"]["policyTypes"]) for policy in rendered.of("NetworkPolicy")} == {("Ingress", "Egress")}
