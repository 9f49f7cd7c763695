"""Whether this worker works in the artifact store of its database: in another one it must neither store nor delete."""

import structlog

from service.errors import WrongStore
from workers.bench import Bench

log = structlog.get_logger()


def is_ours(bench: Bench) -> bool:
    """Say so, and log what to do where it is another; a store that is away only delays work. Raises SQLAlchemyError."""
    try:
        bench.artifacts.confirm()
    except WrongStore as error:
        log.error("artifacts.wrong", detail=str(error))
        return False
    except OSError as error:
        log.warning("artifacts.away", error=type(error).__name__)
    return True
