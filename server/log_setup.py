"""Logging for the whole process: structlog, as JSON lines or for a terminal; the standard library's goes
there too.

An event's name is a constant in past tense, facts are keys. Bodies, passwords and tokens are never
logged; so tracebacks come without the values of local variables.
"""

import logging
import sys
from typing import Final, Literal, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

# Libraries that log each frame or request at debug; their warnings are welcome.
_CHATTY: Final = ("trio-websocket", "hypercorn", "httpx", "httpcore", "h11", "hpack", "asyncio", "PIL")


def set_up_logging(
    *,
    log_format: Literal["auto", "console", "json"] = "auto",
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: TextIO | None = None,
    node_id: str = "",
) -> None:
    """Configure structlog and the standard library's root logger. Call once, before the first log line.

    Lines go to stderr unless `stream` is given: stdout belongs to the command's own output. `node_id` is
    bound to every line.
    """
    out = stream or sys.stderr
    is_console = log_format == "console" or (log_format == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if is_console:
        rendered: list[Processor] = [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    else:
        rendered = [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    numeric_level = getattr(logging, level.upper())
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        logger_factory=structlog.PrintLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    if node_id:
        structlog.contextvars.bind_contextvars(node_id=node_id)
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(numeric_level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, numeric_level))
