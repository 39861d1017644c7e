"""An upstream that keeps its connections, as most do."""

from __future__ import annotations

import asyncio

from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream


class SteadyUpstream(MisbehavingUpstream):
    """A `MisbehavingUpstream` whose connections take one request after another."""

    async def _serve(self, exchange: Exchange) -> None:
        watcher = asyncio.create_task(self._watch(exchange))
        try:
            await self.behaviours[exchange.body["model"]](exchange)
        finally:
            watcher.cancel()
            # Only one at a time may wait for what comes next.
            await asyncio.wait([watcher])
