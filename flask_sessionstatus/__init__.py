"""What is running for this conversation, where is its stream, when will it be done? A Flask blueprint that knows."""

from .background import BackgroundFunction
from .errors import (
    AlreadyStarted,
    Cancelled,
    ConfigurationError,
    ConversationFull,
    Forbidden,
    InvalidValue,
    NamespaceFull,
    NotFound,
    OutboxFull,
    RecordUnreadable,
    SessionConflict,
    SessionStatusError,
    StoreFull,
    StoreUnavailable,
    TaskRunning,
    Unauthorized,
)
from .extension import SessionStatus
from .models import Cursor, Event, Json, Message, Progress, Session, SessionState, Task, TaskState, Turn
from .queues import Work
from .runs import Run, current_run

__all__ = [
    "AlreadyStarted",
    "BackgroundFunction",
    "Cancelled",
    "ConfigurationError",
    "ConversationFull",
    "Cursor",
    "Event",
    "Forbidden",
    "InvalidValue",
    "Json",
    "Message",
    "NamespaceFull",
    "NotFound",
    "OutboxFull",
    "Progress",
    "RecordUnreadable",
    "Run",
    "Session",
    "SessionConflict",
    "SessionState",
    "SessionStatus",
    "SessionStatusError",
    "StoreFull",
    "StoreUnavailable",
    "Task",
    "TaskRunning",
    "TaskState",
    "Turn",
    "Unauthorized",
    "Work",
    "current_run",
]
