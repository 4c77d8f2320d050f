"""What of *Gateway* is about time: whose it is, and how a stream's is spread."""

from __future__ import annotations

from typing import Final

from dashboards import parts
from dashboards.parts import INSTANCES, MODELS, NO_CHILDREN, AnyPanel, promql

DURATION: Final = "luthien_call_duration_seconds"
PART: Final = "luthien_call_part_duration_seconds"


def latency() -> list[AnyPanel]:
    slow = parts.dashboard_link("Slow calls", "calls")
    panels: list[AnyPanel] = [
        parts.graph(
            "Duration of calls",
            "First byte in to last byte out, without policies' own calls; good is flat. Points lead to traces.",
            "s",
            parts.quantiles(DURATION, f"{MODELS}, {NO_CHILDREN}"),
            link=slow,
        ),
        parts.graph(
            "Where the time goes",
            "The average call's time, by whose it is; good is nearly all of it the provider's (`upstream`).",
            "s",
            [
                promql(
                    f"sum by (luthien_part) (rate({PART}_sum{{{MODELS}, {NO_CHILDREN}}}[$__rate_interval])) "
                    f"/ sum by (luthien_part) (rate({PART}_count{{{MODELS}, {NO_CHILDREN}}}[$__rate_interval]))",
                    "{{luthien_part}}",
                )
            ],
            link=slow,
            bars=True,
        ),
    ]
    for part, title, what, good, bad_above in (
        (
            "upstream",
            "Waiting for the provider",
            "How long calls waited for the provider, retries included",
            "good is flat: what rises here is the provider's",
            None,
        ),
        (
            "policy",
            "In policies",
            "How long policies took over a call, all of them together",
            "good is what your slowest policy is worth to you; those that ask a model lead",
            None,
        ),
        (
            "gateway",
            "In the gateway itself",
            "A call's time that is neither the provider's nor a policy's",
            "good is below 20 ms, whatever the others do",
            0.02,
        ),
    ):
        panels.append(
            parts.graph(
                title,
                f"{what}; {good}.",
                "s",
                parts.quantiles(PART, f'{MODELS}, {NO_CHILDREN}, luthien_part="{part}"'),
                link=slow if part != "policy" else parts.dashboard_link("Which policy", "policies"),
                bad_above=bad_above,
                width=8,
            )
        )
    return panels


def streams() -> list[AnyPanel]:
    def sides(q: float) -> list[parts.Query]:
        name = f"p{round(q * 100)}"
        provider = parts.quantile(q, "gen_ai_client_operation_time_to_first_chunk_seconds", MODELS)
        client = parts.quantile(q, "luthien_call_time_to_first_chunk_seconds", f"{MODELS}, {NO_CHILDREN}")
        return [
            promql(provider, f"{name} from the provider", exemplars=True),
            promql(client, f"{name} to the client", exemplars=True),
        ]

    return [
        parts.graph(
            "First token, both sides",
            "Until the provider's first chunk, and until the client was given one; good is hardly any difference.",
            "s",
            [*sides(0.5), *sides(0.95)],
            link=parts.dashboard_link("Slow calls", "calls"),
        ),
        parts.graph(
            "Time per output chunk",
            "Between two chunks of the provider; good is flat and below 0.1 s, at which people read along.",
            "s",
            parts.quantiles("gen_ai_client_operation_time_per_output_chunk_seconds", MODELS),
            link=parts.dashboard_link("Slow calls", "calls"),
        ),
        parts.graph(
            "Rules that streams broke",
            "By rule, and by who broke it: the provider (`upstream`) or we (`gateway`); good is empty.",
            "short",
            [
                promql(
                    "sum by (luthien_stream_side, luthien_stream_rule, luthien_wire_format) "
                    f"(increase(luthien_stream_violations_total{{{INSTANCES}}}[$__rate_interval]))",
                    "{{luthien_stream_side}}: {{luthien_stream_rule}}",
                )
            ],
            link=parts.calls_link("Calls of this format", f"format={parts.series_label('luthien_wire_format')}"),
            bars=True,
            width=24,
            height=7,
        ),
    ]
