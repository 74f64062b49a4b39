"""The log: lines of JSON on stderr, none of which tells what anybody did."""

import logging
import re
import sys
import threading
import warnings
from contextvars import ContextVar
from traceback import format_tb
from types import TracebackType
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

OURS = ("questlog", "schema", "resolvers", "workers", "models")
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)

# Others write values into their messages: what comes before the first bracket, quote, colon or number is their own.
_CONSTANT = re.compile(r"[^<(\[{'\"`:=\d\n]*")

logger = logging.getLogger(__name__)


def configure(process: str, level: str) -> None:
    """Log as this kind of process, from this level on; what libraries say, from WARNING on at least."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, getattr(logging, level.upper())), force=True)
    for room in OURS:
        logging.getLogger(room).setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.raiseExceptions = False
    # No line tells these, and to find them out takes a sixth of the time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    warnings.showwarning = _warned
    sys.excepthook = _died
    sys.unraisablehook = threading.excepthook = _lost


class JsonFormatter(OrjsonFormatter):
    """A record of ours in full, of any other the constant part of its message; of errors never their texts."""

    def __init__(self, process: str) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "error"},
            static_fields={"process": process},
            timestamp="time",
        )

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        return super().format(record if record.name.partition(".")[0] in OURS else _without_values(record))

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """With the id of the request that this was said in."""
        if request_id := REQUEST_ID.get():
            log_data["requestId"] = request_id
        return log_data

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """The kinds of the error and of its causes, and the frames it went through, without its text, which may hold
        what people did."""
        lines = []
        error: BaseException | None = ei[1]
        while error:
            lines += [f"{type(error).__qualname__}\n", *format_tb(error.__traceback__)]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "".join(lines)


def _without_values(record: logging.LogRecord) -> logging.LogRecord:
    constant = _CONSTANT.match(record.msg) if isinstance(record.msg, str) else None
    message = constant[0].strip() if constant else type(record.msg).__qualname__
    bare = logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, message, (), record.exc_info)
    bare.created = record.created
    return bare


def _warned(*told: Any, **_: Any) -> None:
    category, filename, line = told[1:4]
    logger.warning("%s in %s, line %d", category.__qualname__, filename, line)


def _lost(told: Any) -> None:
    logger.error("an error was raised where nobody waits for it", exc_info=told.exc_value)


def _died(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logger.critical("the process ends", exc_info=error)
