"""A TCP proxy that cuts a producer's connection between the append and its acknowledgement.

It stands before one broker. When it is told to, it waits for the answer to the next produce, which
the broker sends only when the records are safe, and closes the connection instead of passing that
on: to the client this is the failure that proves nothing.
"""

import asyncio
import threading

PRODUCE = b"POST /v1/produce "
CHUNK_BYTES = 256 << 10
START_TIMEOUT_S = 10.0


class CuttingProxy:
    """Listens on a port of its own; runs an event loop in a thread until `close`."""

    def __init__(self):
        self.target = None
        self.cuts = 0
        self._cuts_wanted = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="cutting-proxy")
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def cut_next(self):
        """Cut the connection at the next answer to a produce that comes by."""
        with self._lock:
            self._cuts_wanted += 1

    def close(self):
        """End every connection and the thread."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        self._loop.close()

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_TIMEOUT_S)

    async def _end(self):
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader, writer):
        pumps, upstream = (), None
        try:
            upstream_reader, upstream = await asyncio.open_connection(*self.target)
            state = {"producing": False}
            pumps = (
                asyncio.ensure_future(self._requests(reader, upstream, state)),
                asyncio.ensure_future(self._answers(upstream_reader, writer, state)),
            )
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except ConnectionError:
            # The broker is down: the client sees its connection close at once.
            return
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _requests(self, reader, upstream, state):
        while chunk := await reader.read(CHUNK_BYTES):
            if chunk.startswith((b"POST ", b"GET ")):
                state["producing"] = chunk.startswith(PRODUCE)
            upstream.write(chunk)
            await upstream.drain()

    async def _answers(self, upstream_reader, writer, state):
        while chunk := await upstream_reader.read(CHUNK_BYTES):
            if state["producing"] and chunk.startswith(b"HTTP/1.1 200") and self._cut():
                return
            writer.write(chunk)
            await writer.drain()

    def _cut(self):
        with self._lock:
            if self._cuts_wanted == 0:
                return False
            self._cuts_wanted -= 1
            self.cuts += 1
            return True
