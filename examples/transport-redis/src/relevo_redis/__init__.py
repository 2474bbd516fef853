"""relevo-redis: events stored in Redis; each of their transitions is one script."""

from relevo_redis._options import RedisOptions
from relevo_redis._transport import RedisTransport

__all__ = ["RedisOptions", "RedisTransport"]
