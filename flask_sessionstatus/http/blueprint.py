"""The blueprint: a new one for each registration, on a flask-smorest Api or on a plain Flask app."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flask import Flask
from flask.sansio.blueprints import BlueprintSetupState
from flask_smorest import Blueprint

from ..errors import ConfigurationError, SessionStatusError
from .body import StrictParser
from .client import add_client
from .conversations import add_conversations
from .degraded import add_signs
from .errors import respond, respond_to_http
from .operations import add_operations
from .sessions import add_sessions
from .tasks import add_tasks

PARTS: Mapping[str, tuple[Callable[[Blueprint], None], ...]] = {
    "conversations": (add_conversations,),
    "sessions": (add_sessions, add_tasks),
    "operations": (add_operations,),
    "client": (add_client,),
}


class SessionStatusBlueprint(Blueprint):
    """A flask-smorest blueprint with this package's strict reading of requests."""

    ARGUMENTS_PARSER = StrictParser()


def make_blueprint(name: str, parts: Sequence[str], on_registered: Callable[[Flask], None]) -> Blueprint:
    """All routes of the parts named; `on_registered` is told the app. Raises ConfigurationError for an unknown part."""
    blueprint = SessionStatusBlueprint(
        name, __name__, description="Sessions, background tasks and resumable streams", static_folder=None
    )
    for part in parts:
        if part not in PARTS:
            raise ConfigurationError(f"There is no part {part!r}; there are {', '.join(PARTS)}.")
        for add in PARTS[part]:
            add(blueprint)
    blueprint.register_error_handler(SessionStatusError, respond)
    for status in (404, 413, 415, 422):
        blueprint.register_error_handler(status, respond_to_http)

    def initialise(setup: BlueprintSetupState) -> None:
        assert isinstance(setup.app, Flask)
        on_registered(setup.app)
        add_signs(setup.app, f"{setup.name_prefix}.{setup.name}".lstrip("."))

    blueprint.record_once(initialise)
    return blueprint
