"""What panels ask Prometheus, with the dashboard's variables: of one namespace or all, of some models or all."""

from __future__ import annotations

HERE = 'namespace=~"$namespace"'
MODEL = f'{HERE}, model_name=~"$model_name"'
RATE = "$__rate_interval"


def rate(metric: str, by: str, matchers: str = MODEL) -> str:
    """Of a counter, per second."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[{RATE}]))"


def share(part: str, whole: str, by: str = "model_name") -> str:
    """Of two counters."""
    return f"{rate(part, by)} / {rate(whole, by)}"


def mean(histogram: str) -> str:
    """Of a histogram, by model."""
    return share(f"{histogram}_sum", f"{histogram}_count")


def quantiles(histogram: str, by: str = "model_name", matchers: str = MODEL) -> dict[str, str]:
    """Three of a histogram."""
    labels = " ".join(f"{{{{{label}}}}}" for label in by.split(", ") if label)
    buckets = rate(f"{histogram}_bucket", ", ".join(filter(None, (by, "le"))), matchers)
    return {f"{labels} p{q:g}".strip(): f"histogram_quantile({q / 100:g}, {buckets})" for q in (50, 90, 99)}


def of_service(expression: str, service: str = ".*") -> str:
    """What is said by every process of ours, with the service that it is."""
    build = f'tokenmill_build_info{{{HERE}, service=~"{service}"}}'
    return f"{expression} * on (namespace, job, instance) group_left (service) {build}"


def of_gateway(expression: str, by: str) -> str:
    """What gateways say of their callers, without what the others say of gateways."""
    return f"sum by ({by}) ({of_service(expression, 'gateway')})"
