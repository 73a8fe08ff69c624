"""Celery tasks as tasks of a conversation.

    from flask_sessionstatus.integrations import celery as tracking

    tracking.init(celery_app, flask_app)                               # wherever the Celery app is made
    task.apply_async(args, headers=tracking.track(conversation_id))    # in the web process

The task is pending from then on, and runs and ends as Celery's does, with what it returns as its result. The function
need not know of it; one that does has `current_run`.
"""

from .tracking import init, track

__all__ = ["init", "track"]
