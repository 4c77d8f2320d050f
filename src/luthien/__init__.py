"""Luthien: an OpenTelemetry-native control gateway for LLM traffic.

One call, from the door to the debug page, in the order of the folders:

    gateway/    boundary.py makes the call id; routes.py says which wire format a path speaks,
                passthrough.py what becomes of the paths that speak none, keys.py whose key a client shows;
                live.py has the configuration that a call takes, reload.py changes it
    formats/    what a request, a response and a stream mean in each wire format (pure)
    pipeline/   orchestrator.py takes one exchange from its first byte to its last,
                passage.py what is passed through without policies
    policies/   what may change a call, the chain that runs it, and groups.py: which chain is a call's
    upstream/   the provider
    telemetry/  every payload becomes an event on a span; the processor forks it into the record
    record/     the queue behind the processor and the thread that writes it to Postgres
    store/      SQL: migrations, writing, reading, an embedded server
    debug/      the diff, the pages, and export/: calls in the forms of other tools
    doctor/     what `luthien doctor` looks at
    calls/      the record in the terminal: `luthien calls`

app.py puts them together; cli.py starts them: on a socket by server.py, with a database of their own by local.py.
testing.py shows calls to policies without them.

What they go by: settings.py alone reads the environment; otel.py and otlp.py are its standard variables, and hosts.py
and headers.py read lists in them. config.py says what may stand in `luthien.yaml`, config_file.py reads it, and
open_paths.py says what may be passed through; deadlines.py says how long each part may take to stop. The words that
all share are in exchange.py and errors.py; health.py asks a running gateway how it is.
"""

__version__ = "0.1.0"
