"""*Gateway*: is it fast, does it answer, and if not, whose fault is it?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards import gateway_times, parts
from dashboards.parts import INSTANCES, MODELS, NO_CHILDREN, AnyPanel, promql, promql_now

_CALLS: Final = f"luthien_calls_total{{{MODELS}, {NO_CHILDREN}}}"
_BROKEN: Final = f'luthien_calls_total{{{MODELS}, {NO_CHILDREN}, luthien_outcome=~"upstream_error|policy_error"}}'
_GATEWAYS_FAULT: Final = f'{INSTANCES}, luthien_stream_side="gateway"'
_BY_MODEL: Final = "gen_ai_provider_name, gen_ai_request_model"
_MODEL_FILTERS: Final = (
    f"provider={parts.series_label('gen_ai_provider_name')}&model={parts.series_label('gen_ai_request_model')}"
)
_ROW_FILTERS: Final = f"provider={parts.column('gen_ai_provider_name')}&model={parts.column('gen_ai_request_model')}"


def gateway() -> Dashboard:
    made = parts.dashboard(
        "gateway",
        "Luthien: the gateway",
        "How many calls, how they ended, how long they took and whose time that was; by provider and model.",
    )
    made = made.with_variable(parts.instance_variable())
    for name, label, of in (
        ("provider", "Provider", "gen_ai_provider_name"),
        ("model", "Model", "gen_ai_request_model"),
    ):
        made = made.with_variable(parts.label_variable(name, label, 'luthien_calls_total{job="luthien"}', of))
    for title, panels in (
        ("At a glance", _glance()),
        ("Calls", _calls()),
        ("Whose time it is", gateway_times.latency()),
        ("Streams: the first token and the next", gateway_times.streams()),
        ("Tokens", _tokens()),
        ("Unusual calls", _unusual()),
    ):
        made = made.with_row(Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made


def _glance() -> list[AnyPanel]:
    streams = f"sum(luthien_streams_open{{{MODELS}}})"
    return [
        parts.number(
            "Calls a second",
            "Calls of clients that end each second; good is what you expect at this time of day.",
            "reqps",
            promql(f"sum(rate({_CALLS}[$__rate_interval]))", "calls"),
            parts.plain(),
            link=parts.calls_link("Calls"),
        ),
        parts.number(
            "Gone wrong",
            "Share of calls that the provider or a policy broke; good is below 1%.",
            "percentunit",
            promql(
                f"(sum(rate({_BROKEN}[$__rate_interval])) or vector(0)) / sum(rate({_CALLS}[$__rate_interval]))",
                "share",
            ),
            parts.steps((0.01, "orange"), (0.05, "red")),
            link=parts.calls_link("Calls that the provider or a policy broke", "outcome=upstream_error,policy_error"),
            decimals=1,
        ),
        parts.number(
            "p95 duration",
            "19 of 20 calls of clients take no longer, first byte in to last byte out; good is your usual value.",
            "s",
            promql(parts.quantile(0.95, gateway_times.DURATION, f"{MODELS}, {NO_CHILDREN}"), "p95"),
            parts.plain(),
            link=parts.dashboard_link("Slow calls", "calls"),
        ),
        parts.number(
            "p95 in the gateway",
            "What Luthien adds to 19 of 20 calls besides policies; good is below 20 ms.",
            "s",
            promql(
                parts.quantile(0.95, gateway_times.PART, f'{MODELS}, {NO_CHILDREN}, luthien_part="gateway"'), "p95"
            ),
            parts.steps((0.02, "orange"), (0.1, "red")),
            link=parts.dashboard_link("Slow calls", "calls"),
        ),
        parts.number(
            "Open streams",
            "Streams that are being written to clients at this moment; good is a number that goes down again.",
            "short",
            promql(streams, "streams"),
            parts.plain(),
            link=parts.calls_link("Calls that run", "outcome=running"),
        ),
        parts.number(
            "Streams that we broke",
            "Rules of its protocol that only the client's side of a stream broke, in this time; good is 0.",
            "short",
            promql_now(
                f"sum({parts.grown('luthien_stream_violations_total', _GATEWAYS_FAULT, '$__range')}) or vector(0)",
                "violations",
            ),
            parts.steps((1, "red")),
            link=parts.calls_link("Calls that policies changed", "changed=response"),
        ),
    ]


def _calls() -> list[AnyPanel]:
    return [
        parts.coloured_outcomes(
            parts.graph(
                "Calls by outcome",
                "How calls ended; good is nearly all `completed`, and `blocked` only where policies should block.",
                "reqps",
                [promql(f"sum by (luthien_outcome) (rate({_CALLS}[$__rate_interval]))", "{{luthien_outcome}}")],
                link=parts.calls_link("Calls with this outcome", f"outcome={parts.series_label('luthien_outcome')}"),
                bars=True,
                many=True,
            )
        ),
        parts.graph(
            "Errors by type",
            "What went wrong in calls that did, by outcome and `error.type`; good is empty.",
            "reqps",
            [
                promql(
                    "sum by (luthien_outcome, error_type) (rate("
                    f'luthien_calls_total{{{MODELS}, luthien_outcome!~"completed|blocked"}}[$__rate_interval]))',
                    "{{luthien_outcome}}: {{error_type}}",
                )
            ],
            link=parts.calls_link("Calls with this outcome", f"outcome={parts.series_label('luthien_outcome')}"),
            bars=True,
            many=True,
        ),
        parts.graph(
            "Calls by model",
            "Which models are asked for; good is what you expect.",
            "reqps",
            [
                promql(
                    f"sum by ({_BY_MODEL}) (rate({_CALLS}[$__rate_interval]))",
                    "{{gen_ai_provider_name}} {{gen_ai_request_model}}",
                )
            ],
            link=parts.calls_link("Calls of this model", _MODEL_FILTERS),
            many=True,
        ),
        parts.graph(
            "Open calls and streams",
            "Calls that have begun and not ended, and streams by model; good follows the load and goes down again.",
            "short",
            [
                promql(f"sum(luthien_calls_open{{{MODELS}}})", "calls"),
                promql(
                    f"sum by ({_BY_MODEL}) (luthien_streams_open{{{MODELS}}})",
                    "streams {{gen_ai_provider_name}} {{gen_ai_request_model}}",
                ),
            ],
            link=parts.calls_link("Calls that run", "outcome=running"),
            many=True,
        ),
        _models(),
    ]


def _models() -> AnyPanel:
    """A row for each model: calls, share of errors, p95, tokens; each leads to its calls."""
    by = f"sum by ({_BY_MODEL})"
    calls = f"{by} (increase({_CALLS}[$__range]))"
    panel = parts.rows_of(
        "Models",
        "Each model in this time, as clients asked for it; good is a low share of errors and a p95 that you know. "
        "Without a model: calls that were refused before it was read; they open all of the provider.",
        [
            parts.promql_table(calls),
            parts.promql_table(f"({by} (increase({_BROKEN}[$__range])) or {calls} * 0) / ({calls} > 0)"),
            parts.promql_table(
                f"histogram_quantile(0.95, sum by (le, {_BY_MODEL}) "
                f"(rate({gateway_times.DURATION}_bucket{{{MODELS}, {NO_CHILDREN}}}[$__range])))"
            ),
            parts.promql_table(f"{by} (increase(gen_ai_client_token_usage_sum{{{MODELS}}}[$__range]))"),
        ],
    )
    link = parts.calls_link("Calls of this model", _ROW_FILTERS)
    for name, shown, unit, decimals in (
        ("gen_ai_provider_name", "Provider", None, None),
        ("gen_ai_request_model", "Model", None, None),
        ("Value #A", "Calls", "locale", 0),
        ("Value #B", "Gone wrong", "percentunit", 1),
        ("Value #C", "p95 duration", "s", None),
        ("Value #D", "Tokens", "locale", 0),
    ):
        panel = parts.column_of(panel, name, shown=shown, unit=unit, link=link, decimals=decimals)
    return panel.transformations(parts.merged(without=["Time"]))


def _tokens() -> list[AnyPanel]:
    used = f"rate(gen_ai_client_token_usage_sum{{{MODELS}}}[$__rate_interval])"
    return [
        parts.graph(
            "Tokens a second",
            "Read (`input`) and written (`output`), as providers report them; good is what you expect to pay for.",
            "cps",
            [promql(f"sum by (gen_ai_token_type) ({used})", "{{gen_ai_token_type}}")],
            link=parts.calls_link("Calls"),
            bars=True,
        ),
        parts.graph(
            "Tokens a second, by model",
            "Which models they go to; good is the cheap ones where those do.",
            "cps",
            [promql(f"sum by ({_BY_MODEL}) ({used})", "{{gen_ai_provider_name}} {{gen_ai_request_model}}")],
            link=parts.calls_link("Calls of this model", _MODEL_FILTERS),
            many=True,
        ),
    ]


def _unusual() -> list[AnyPanel]:
    newest = parts.rows_of(
        "Calls that did not complete",
        "The newest fifty, each with its page and its trace; good is no row, or only what should be blocked.",
        [
            parts.sql(
                """
SELECT call_id::text AS call_id, started_at, outcome, provider, model_requested, error_type, duration_ms, trace_id
FROM report_calls
WHERE call_id >= luthien_first_id($__timeFrom()) AND call_id < luthien_first_id($__timeTo())
    AND outcome NOT IN ('completed', 'running')
ORDER BY report_calls.call_id DESC
LIMIT 50"""
            )
        ],
    )
    link = parts.page_link("Its page", f"/debug/calls/{parts.column('call_id')}")
    same = parts.calls_link("All with this outcome", f"outcome={parts.column('outcome')}")
    newest = parts.column_of(newest, "call_id", shown="Call", link=link, width=320)
    newest = parts.column_of(newest, "started_at", shown="Began", width=180)
    newest = parts.column_of(newest, "outcome", shown="Outcome", link=same, width=150)
    newest = parts.column_of(newest, "provider", shown="Provider")
    newest = parts.column_of(newest, "model_requested", shown="Model", width=180)
    newest = parts.column_of(newest, "error_type", shown="Error")
    newest = parts.column_of(newest, "duration_ms", shown="Took", unit="ms")
    newest = parts.column_of(newest, "trace_id", shown="Trace", link=parts.trace_link())
    return [
        newest,
        parts.log_lines(
            "What the gateway said of calls",
            "Lines of calls that did not complete, or of which something was said; good is empty.",
            parts.logql('{service_name="luthien"} | luthien_call_id != "" | luthien_outcome != "completed"', 200),
        ),
    ]
