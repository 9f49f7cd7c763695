"""How both sides reach the broker, which only rings: a message holds a job id and nothing else."""

from pathlib import Path
from typing import Any

from service.file_broker import TRANSPORT
from service.settings import Settings

TASK = "workers.run"
QUEUE = "unlearn"


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return the Celery settings shared by sender and worker.

    Early acknowledgement on purpose: SQL owns redelivery, and late acknowledgement on Redis would run a long
    job twice at once after the visibility timeout.
    """
    config: dict[str, Any] = {
        "broker_url": settings.resolved_broker_url,
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "worker_prefetch_multiplier": 1,
        "broker_connection_retry_on_startup": True,
        # For ever: a worker that gave up on its broker would sit there deaf.
        "broker_connection_max_retries": None,
        "worker_hijack_root_logger": False,
        "worker_enable_remote_control": not settings.resolved_broker_url.startswith("filesystem"),
    }
    if settings.resolved_broker_url.startswith("filesystem"):
        config["broker_transport"] = TRANSPORT
        config["broker_transport_options"] = _folders(settings.data_dir.resolve() / "broker")
    else:
        config["broker_transport_options"] = {"socket_connect_timeout": 2, "socket_timeout": 5}
    return config


def _folders(root: Path) -> dict[str, Any]:
    queue, control = root / "queue", root / "control"
    for folder in (queue, control):
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(queue),
        "data_folder_out": str(queue),
        "control_folder": str(control),
        "polling_interval": 0.25,
    }
