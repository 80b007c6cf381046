"""An `async def` task with a nursery inside: many clients talk to a server at once, in one process.

The time-out of the task is a cancel scope around it: when it ends, every child of the nursery is cancelled and the
sockets are closed. Everything stays on the loopback interface.
"""

import statistics
import time
from datetime import timedelta
from functools import partial

from scheduler import dag, task

CLIENTS = 20
MESSAGES = 50


@dag(schedule="@once", tags=["example"])
def echo_latency():
    """How long does a message take to a local TCP server and back?"""

    @task(execution_timeout=timedelta(seconds=30))
    async def measure() -> dict:
        import trio

        async def serve(stream: trio.SocketStream) -> None:
            async for data in stream:
                await stream.send_all(data)

        async def ask(port: int, seconds: list[float]) -> None:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                for _ in range(MESSAGES):
                    began = time.perf_counter()
                    await stream.send_all(b"ping")
                    await stream.receive_some(4)
                    seconds.append(time.perf_counter() - began)

        seconds: list[float] = []
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            async with trio.open_nursery() as clients:
                for _ in range(CLIENTS):
                    clients.start_soon(ask, port, seconds)
            nursery.cancel_scope.cancel()
        return {"messages": len(seconds), "median_ms": round(1000 * statistics.median(seconds), 3)}

    @task
    def report(result: dict) -> None:
        print(f"{result['messages']} messages, {CLIENTS} clients at once: {result['median_ms']} ms there and back")

    report(measure())


echo_latency()
