"""Every limit of the wire, with its reason, in one place."""

PROTOCOL_VERSION = 1
"""First element of every envelope and second segment of every topic."""

MAX_PUBLISH_BYTES = 48 * 1024
"""Largest MQTT payload. Hosted brokers cut off at 128 KiB; small ones at less."""

MAX_MICROCONTROLLER_PUBLISH_BYTES = 768
"""Largest payload sent to a node that has kilobytes of memory."""

MAX_CHUNK_BYTES = 512
"""Data of one `Chunk`, so that its publish fits the smallest receiver."""

MAX_DEPTH = 12
"""Nesting of CBOR arrays and tags. The deepest message of ours has 6."""

MAX_ITEMS_PER_MESSAGE = 4096
"""Offers, results or submissions in one message."""

ID_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
"""Mesh, node, client and coordinator ids: 1 to 32 of a-z, 0-9 and inner hyphens."""

MODEL_NAME_PATTERN = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
"""Model names: 1 to 64 characters; they stand in URLs, never in topics."""

TASK_ID_BYTES = 16
SHA256_BYTES = 32
WARM_MODEL_BYTES = 8
"""A heartbeat names warm models by the first 8 bytes of their SHA-256."""

MAX_TEXT_CHARACTERS = 2000
"""Free text in a message: reasons, log lines, error texts."""

MAX_NAME_CHARACTERS = 64
MAX_SENSOR_NAME_CHARACTERS = 32
MAX_TENSORS = 256
"""Named inputs or outputs of one task."""

MAX_DIMENSIONS = 8
MAX_HOP_OVERHEAD_BYTES = 64
"""What an `Activation` may take beside its data, whatever its numbers are."""

MAX_ACTIVATION_DATA_BYTES = MAX_PUBLISH_BYTES - MAX_HOP_OVERHEAD_BYTES
"""Data of one `Activation`; a sender cuts what is longer into parts."""

MAX_INLINE_CONTENT_BYTES = 40 * 1024
"""Larger inputs and outputs travel as artefacts over HTTP and are named by SHA-256."""

MAX_SCHEMA_BYTES = 16 * 1024
"""JSON schema of an answer; with it an order still fits a publish beside 7,000 tokens."""

MAX_ARTEFACT_BYTES = 64 * 1024 * 1024 * 1024
"""Upper bound of a size field; a coordinator sets its own, lower, limits."""

MAX_STAGES = 255
"""Stages of a pipeline."""

MAX_POSITIONS = 1 << 24
"""Tokens of prompt and answer together."""

MAX_UINT32 = (1 << 32) - 1
MAX_UINT64 = (1 << 64) - 1

HEARTBEAT_INTERVAL_MS = 1000
"""A node that is up says so this often (plus or minus a tenth, so that fleets spread)."""

NODE_LOST_AFTER_MS = 2800
"""Silence after which a coordinator lists a node as lost: two missed heartbeats and a margin."""

NODE_SUSPECT_AFTER_MS = 1800
"""Silence after which no new work is sent to a node."""
