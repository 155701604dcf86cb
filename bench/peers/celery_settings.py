"""What the Celery client and its worker must agree on."""

PACKAGE = "celery[redis]>=5.4"
REDIS_URL = "MAILLE_BENCH_REDIS_URL"
MODEL = "MAILLE_BENCH_MODEL"

SETTINGS: dict[str, object] = {
    # The guide: many short tasks want a large multiplier.
    "worker_prefetch_multiplier": 128,
    # JSON is Celery's default, here no slower than pickle, which runs code from whoever
    # reaches Redis.
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "task_acks_late": False,
    "task_track_started": False,
    "worker_send_task_events": False,
    "worker_enable_remote_control": False,
    "result_expires": 600,
}
