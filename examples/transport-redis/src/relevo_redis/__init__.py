"""relevo-redis: events kept in Redis, every step of their life one script."""

from relevo_redis._options import RedisOptions
from relevo_redis._transport import RedisTransport

__all__ = ["RedisOptions", "RedisTransport"]
