"""How much of what a Redis acknowledged survives its end."""

from __future__ import annotations

from typing import Any


def weakness_of(client: Any) -> tuple[str, bool]:
    """Return how an acknowledged write could be lost ("" where it cannot), and whether to wait for the disk.

    Where the server knows ``WAITAOF`` (Redis 7.2), it is asked after each write to bring it to its disk; else only its
    own ``appendfsync always`` does so before it answers.

    Raises
    ------
    RedisError
        If the server does not answer.
    """
    from redis.exceptions import ResponseError

    try:
        settings: Any = client.config_get("append*", "maxmemory*")
    except ResponseError:
        return "its settings cannot be read (CONFIG GET is refused): set appendonly yes and appendfsync always", False
    weaknesses = []
    wait = False
    if settings.get("appendonly") != "yes":
        weaknesses.append("appendonly is off, so that it forgets all when it ends: set appendonly yes")
    elif settings.get("appendfsync") != "always":
        wait = _waits_for_disk(client)
        if not wait:
            weaknesses.append(
                f"appendfsync is {settings.get('appendfsync')}, so that a crash of its machine can lose the last "
                "second or more: set appendfsync always, or use Redis 7.2"
            )
    if settings.get("maxmemory", "0") != "0" and settings.get("maxmemory-policy") != "noeviction":
        weaknesses.append(
            f"maxmemory-policy is {settings.get('maxmemory-policy')}, so that it may drop the log when its memory is "
            "full: set maxmemory-policy noeviction"
        )
    return "; ".join(weaknesses), wait


def _waits_for_disk(client: Any) -> bool:
    from redis.exceptions import ResponseError

    try:
        client.execute_command("WAITAOF", 0, 0, 1)
    except ResponseError:
        return False
    return True
