"""What a queue's function returns is its task's result."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import InvalidValue
from ..runs import Run

log = logging.getLogger("flask_sessionstatus")


def keep_returned(run: Run, value: Any) -> None:
    """Keep what the function returned, where that is JSON, unless it has kept another result itself."""
    if value is None or run.has_result:
        return
    try:
        run.result(value)
    except InvalidValue as error:
        log.warning("What task %s returned is not kept as its result: %s", run.task_id[:8], error)
