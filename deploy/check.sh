#!/usr/bin/env bash
# deploy/check.sh PYTHON [PYTEST ARGUMENTS]: everything about deployment that needs no cluster: the chart with its default
# values and with every example, held to the schemas of Kubernetes and of other people's objects, alerts, Containerfiles,
# and what the tests say of the rendered objects.
set -euo pipefail
python=$1
cd "$(dirname "$0")/.."
deploy/tools.sh "$python"
export PATH="$PWD/.venv/tools:$PWD/.venv/bin:$PATH" TOKENMILL_TEST_CHART=1
chart=deploy/charts/tokenmill
rendered=build/chart
versions=(1.31 1.34 1.37)
shopt -s nullglob

echo "chart: values.schema.json is that of the settings"
"$python" -m deploy.schema --check

rm -rf "$rendered" && mkdir -p "$rendered"
for values in "$chart/values.yaml" "$chart"/examples/*.yaml tests/deploy/values/*.yaml; do
  name=$(basename "$values" .yaml)
  echo "chart: helm lint and template: $name"
  helm lint --strict --quiet "$chart" --values "$values"
  helm template tokenmill "$chart" --namespace mill --values "$values" > "$rendered/$name.yaml"
done

# What has no schema there must have one below.
for version in "${versions[@]}"; do
  echo "chart: schemas of Kubernetes $version"
  kubernetes-validate --strict --quiet --kubernetes-version "$version" "$rendered"/*.yaml 2>&1 |
    { grep -vE "Couldn't find schema for kind (GRPCRoute|HTTPRoute|PodMonitor|PrometheusRule|ScaledObject) " || true; } |
    { ! grep .; }
done

echo "chart: schemas of KEDA's, Prometheus' and the Gateway API's objects"
"$python" - "$rendered"/*.yaml <<'OTHERS' | node deploy/crds/check.mjs
import json, sys, yaml

ours = {"v1", "apps", "autoscaling", "policy", "networking.k8s.io"}
objects = [one for file in sys.argv[1:] for one in yaml.safe_load_all(open(file)) if one]
print(json.dumps([one for one in objects if one["apiVersion"].split("/")[0] not in ours]))
OTHERS

for rules in "$chart"/files/*.rules.yaml; do
  echo "chart: promtool check rules $(basename "$rules")"
  promtool check rules "$rules"
done
for tests in deploy/prometheus/*.test.yaml; do
  echo "chart: promtool test rules $(basename "$tests")"
  promtool test rules "$tests"
done
for file in deploy/images/*.Containerfile; do
  echo "chart: hadolint $(basename "$file")"
  hadolint "$file"
done

exec "$python" -m pytest tests/deploy -m "not slow" "${@:2}"
