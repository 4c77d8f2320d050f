"""The one message of Tempo's own that is read; what it wraps is OTLP's.

`TraceByIDResponse` of https://github.com/grafana/tempo/blob/main/pkg/tempopb/tempo.proto, whose `Trace` has the one
field of OTLP's `TracesData`.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.trace.v1 import trace_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_FIELDS = (
    ("trace", 1, _Field.TYPE_MESSAGE, f".{trace_pb2.TracesData.DESCRIPTOR.full_name}"),
    ("status", 3, _Field.TYPE_INT32, None),
    ("message", 4, _Field.TYPE_STRING, None),
)


def _trace_by_id_response() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="luthien/tempo.proto",
        package="luthien.tempo",
        syntax="proto3",
        dependency=[trace_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="TraceByIDResponse")
    for name, number, kind, type_name in _FIELDS:
        message.field.add(name=name, number=number, type=kind, type_name=type_name, label=_Field.LABEL_OPTIONAL)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("luthien.tempo.TraceByIDResponse"))


TraceByIdResponse: Any = _trace_by_id_response()
