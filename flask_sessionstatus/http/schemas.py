"""The JSON that goes in and out: camelCase, exact."""

from __future__ import annotations

from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from ..errors import InvalidValue
from ..models import ROLES, check_id

MAX_LIMIT = 200


def camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _id(name: str) -> Any:
    def check(value: str) -> None:
        try:
            check_id(value, name)
        except InvalidValue as error:
            raise ValidationError(list(error.errors[name])) from None

    return check


class Id(fields.String):
    """An opaque id; a number is no id."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        _id(attr or "id")(text)
        return text


class Short(fields.String):
    """A text of 1 to 256 printable characters."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if not text.isprintable() or not 0 < len(text) <= 256:
            raise ValidationError("Not a text of 1 to 256 printable characters.")
        return text


class SessionStatusSchema(Schema):
    """Base of all: camelCase keys, unknown fields refused."""

    class Meta:
        unknown = RAISE

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        if field_obj.data_key is None:
            field_obj.data_key = camel_case(field_name)

    def __deepcopy__(self, memo: dict[int, Any]) -> SessionStatusSchema:
        """Itself: flask-smorest copies all that it knows of a view with each decorator, and changes no schema."""
        return self


class SessionStatusErrorSchema(SessionStatusSchema):
    error = fields.String(required=True, metadata={"description": "A sentence"})
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "With 422: field → messages"},
    )


class SessionStatusActiveSessionSchema(SessionStatusSchema):
    session_id = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(["active", "idle", "completed"]))
    cursor = fields.String(
        required=True, metadata={"description": "The last event of the latest task; 0-0 without any"}
    )
    conversation_id = fields.String(required=True)
    started_at = fields.Integer(required=True, metadata={"description": "Unix ms"})
    last_activity = fields.Integer(required=True, metadata={"description": "Unix ms"})


class SessionStatusTaskStatusSchema(SessionStatusSchema):
    is_active = fields.Boolean(required=True)
    session_id = fields.String(required=True)
    estimated_completion = fields.Integer(required=True, allow_none=True, metadata={"description": "Unix ms or null"})
    conversation_id = fields.String(required=True)


class SessionStatusStopSchema(SessionStatusSchema):
    session_id = fields.String(required=True)
    task_id = fields.String(required=True)
    state = fields.String(required=True)
    cancel_requested_at = fields.Integer(required=True, allow_none=True, metadata={"description": "Unix ms"})
    conversation_id = fields.String(required=True)


class SessionStatusProgressSchema(SessionStatusSchema):
    current = fields.Raw(required=True, allow_none=True)
    total = fields.Raw(required=True, allow_none=True)
    message = fields.String(required=True, allow_none=True)


class SessionStatusTaskSchema(SessionStatusSchema):
    id = fields.String(attribute="task_id", required=True)
    session_id = fields.String(required=True)
    conversation_id = fields.String(required=True)
    type = fields.String(required=True)
    state = fields.Function(lambda task: task.state.value, metadata={"type": "string"})
    attempt = fields.Integer(required=True)
    progress = fields.Nested(SessionStatusProgressSchema, required=True)
    created_at = fields.Integer(required=True)
    started_at = fields.Integer(allow_none=True)
    updated_at = fields.Integer(required=True)
    finished_at = fields.Integer(allow_none=True)
    estimated_completion = fields.Integer(allow_none=True)
    estimate_basis = fields.String(allow_none=True)
    cancel_requested_at = fields.Integer(allow_none=True)
    result_available = fields.Boolean(required=True)
    error_message = fields.String(allow_none=True)
    error_type = fields.String(allow_none=True)


class SessionStatusSessionSchema(SessionStatusSchema):
    id = fields.String(attribute="session_id", required=True)
    namespace_id = fields.String(allow_none=True)
    conversation_id = fields.String(required=True)
    status = fields.Function(lambda session: session.status.value, metadata={"type": "string"})
    created_at = fields.Integer(required=True)
    last_activity = fields.Integer(required=True)
    expires_at = fields.Integer(required=True)
    device_type = fields.String(allow_none=True)
    client_version = fields.String(allow_none=True)
    language = fields.String(required=True)
    metadata = fields.Dict(keys=fields.String())
    message_count = fields.Integer(required=True)
    pending_tasks_count = fields.Integer(required=True)
    current_slots = fields.Dict(keys=fields.String())
    current_template_id = fields.String(allow_none=True)
    latest_task = fields.Nested(SessionStatusTaskSchema, allow_none=True)
    websocket_url = fields.String(allow_none=True, dump_default=None)
    last_accessed = fields.Integer(allow_none=True)
    access_count = fields.Integer(required=True)


class SessionStatusSummarySchema(SessionStatusSchema):
    id = fields.String(attribute="session_id", required=True)
    conversation_id = fields.String(required=True)
    status = fields.Function(lambda session: session.status.value, metadata={"type": "string"})
    message_count = fields.Integer(required=True)
    created_at = fields.Integer(required=True)
    last_activity = fields.Integer(required=True)


class SessionStatusNewSessionSchema(SessionStatusSchema):
    conversation_id = Id()
    namespace_id = Id()
    key_hash = Short(metadata={"description": "Required on the session's other routes then: X-Namespace-Key"})
    device_type = Short(allow_none=True)
    client_version = Short(allow_none=True)
    language = Short(allow_none=True)
    metadata = fields.Dict(keys=fields.String())


class SessionStatusSessionChangeSchema(SessionStatusSchema):
    metadata = fields.Dict(keys=fields.String(), metadata={"description": "Merged; null removes a key"})
    language = Short()


class SessionStatusTurnSchema(SessionStatusSchema):
    position = fields.Integer(dump_only=True)
    role = fields.String(required=True, validate=validate.OneOf(ROLES))
    content = fields.String(required=True)
    timestamp = fields.Integer(dump_only=True, metadata={"description": "Unix ms"})
    sources = fields.Raw(allow_none=True)
    resolved_question = fields.String(allow_none=True)
    template_id = fields.String(allow_none=True)
    slots = fields.Dict(keys=fields.String())
    results = fields.Raw(allow_none=True)


class SessionStatusEventSchema(SessionStatusSchema):
    cursor = fields.String(required=True)
    type = fields.String(required=True)
    data = fields.Raw(required=True)


class SessionStatusEventsSchema(SessionStatusSchema):
    events = fields.List(fields.Nested(SessionStatusEventSchema), required=True)
    cursor = fields.String(required=True, metadata={"description": "Where to go on from"})
    done = fields.Boolean(required=True, metadata={"description": "Nothing follows"})


class SessionStatusClosedSchema(SessionStatusSchema):
    status = fields.Constant("closed")
    session_id = fields.String(required=True)


class SessionStatusStatsSchema(SessionStatusSchema):
    session_id_truncated = fields.String(required=True)
    status = fields.String(required=True)
    age_seconds = fields.Integer(required=True)
    message_count = fields.Integer(required=True)
    pending_tasks_count = fields.Integer(required=True)
    device_type = fields.String(allow_none=True)
    audio_chunks_received = fields.Integer(required=True)
    audio_chunks_processed = fields.Integer(required=True)
    counters = fields.Dict(keys=fields.String(), values=fields.Integer())


class SessionStatusHealthSchema(SessionStatusSchema):
    status = fields.String(required=True, validate=validate.OneOf(["ok", "degraded", "unavailable"]))
    store = fields.String(required=True)
    degraded = fields.Boolean(required=True)
    latency_ms = fields.Float(required=True, allow_none=True)


class _Query(SessionStatusSchema):
    limit = fields.Integer(load_default=50, validate=validate.Range(1, MAX_LIMIT), strict=False)


class SessionStatusSessionsQuerySchema(_Query):
    status = fields.String(validate=validate.OneOf(["active", "idle", "completed"]))
    conversation_id = Id()
    cursor = fields.String()


class SessionStatusTurnsQuerySchema(_Query):
    before = fields.Integer(validate=validate.Range(0, 10**12))


class SessionStatusTasksQuerySchema(_Query):
    state = fields.String(validate=validate.OneOf(["pending", "running", "completed", "error", "cancelled", "lost"]))


class SessionStatusEventsQuerySchema(SessionStatusSchema):
    cursor = fields.String()
    wait = fields.Float(validate=validate.Range(0, 3600))


class SessionStatusStopQuerySchema(SessionStatusSchema):
    session_id = Id(data_key="session_id")


class SessionStatusStreamQuerySchema(SessionStatusSchema):
    cursor = fields.String(metadata={"description": "Exclusive; Last-Event-ID wins over it"})
