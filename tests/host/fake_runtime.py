"""A fake of the Lambda Runtime API that spawns, feeds, freezes and kills a function's processes on this machine.

As a module:

    with FakeRuntime(["./bootstrap"], env={"THAW_APP": "words"}) as runtime:
        results = runtime.run([Event(b"{}"), Event(b"{}", freeze_ms=300)])
    for process in runtime.processes: print(process.stderr)        # complete once the block is left

As a command, one line of JSON for each event:

    fake_runtime.py --event events/http_v2.json --repeat 20 --freeze-ms 300 -- ./bootstrap

Each worker owns one function process at a time, with a listening socket of its own, and a thread that drives both; a process
that died is replaced, cold, for the next event. A process is frozen (SIGSTOP) only while it is warm and blocked in /next, and
runs again before it is given the event. Not modelled: extensions, telemetry, the init limit's re-run, restored snapshots.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import concurrent.futures
import dataclasses
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence

API = "/2018-06-01/runtime"
MAX_RESPONSE = 6 * 1024 * 1024 + 100
INHERITED = ("PATH", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LLVM_PROFILE_FILE")


@dataclasses.dataclass(frozen=True)
class Event:
    """One event and how the host behaves around it."""

    body: bytes
    label: str = ""
    timeout_ms: int = 10_000
    freeze_ms: float = 0  # before the event is handed out, if the process is warm
    chunked: bool = False  # the event's body is sent in chunks
    next_resets: int = 0  # so many /next requests find their connection closed without an answer
    next_errors: int = 0  # so many /next requests are answered with 503
    response_resets: int = 0  # the same for /response and /error, which the host then has not taken
    response_errors: int = 0


@dataclasses.dataclass
class Result:
    """What became of an event."""

    label: str = ""
    request_id: str = ""
    status: str = ""  # response, error, timeout, exit, no response, init error, init timeout, cancelled
    body: bytes = b""  # of /response, /error or /init/error
    error_type: str = ""  # the header Lambda-Runtime-Function-Error-Type
    worker: int = 0
    pid: int = 0
    cold: bool = False
    busy_ms: float = 0  # from handing out the event to the next /next, or to the process's end
    latency_ms: float = 0  # from handing out the event to its response
    frozen_ms: float = 0
    exit_code: int | None = None  # of the process, if it ended with this event; -9: killed


@dataclasses.dataclass
class ProcessRecord:
    """One process of the function. stdout and stderr are complete once the process has ended."""

    worker: int
    pid: int
    handled: int = 0
    exit_code: int | None = None
    stdout: bytearray = dataclasses.field(default_factory=bytearray)
    stderr: bytearray = dataclasses.field(default_factory=bytearray)


@dataclasses.dataclass
class _Order:
    """What the connection that waits in /next is to do."""

    kind: str  # event, reset, status
    headers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    event: Event | None = None


class _Disconnected(Exception):
    pass


class _Connection:
    """The server's side of one HTTP/1.1 connection. Owner-thread, apart from close."""

    def __init__(self, sock: socket.socket, is_open: Callable[[], bool]) -> None:
        self._sock = sock
        self._is_open = is_open
        self._buffer = bytearray()
        sock.settimeout(0.5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _fill(self) -> None:
        """Raises _Disconnected at the end of the stream and once the worker has closed down."""
        while True:
            try:
                data = self._sock.recv(256 * 1024)
            except TimeoutError:
                if self._is_open():
                    continue
                raise _Disconnected from None
            except OSError:
                raise _Disconnected from None
            if not data:
                raise _Disconnected
            self._buffer += data
            return

    def _line(self) -> str:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > 64 * 1024:
                raise _Disconnected
            self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line.decode("latin-1")

    def _bytes(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def request(self) -> tuple[str, str, dict[str, str], bytes]:
        """Method, path, headers with lower-case names, body."""
        try:
            method, path, version = self._line().split(" ")
            if not version.startswith("HTTP/1."):
                raise _Disconnected
            headers: dict[str, str] = {}
            while line := self._line():
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            if headers.get("transfer-encoding", "").lower() == "chunked":
                body = b""
                while size := int(self._line().split(";")[0], 16):
                    body += self._bytes(size)
                    self._line()
                while self._line():
                    pass
            else:
                body = self._bytes(int(headers.get("content-length", "0")))
            return method, path, headers, body
        except ValueError:
            raise _Disconnected from None

    def answer(self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = (), chunked: bool = False) -> None:
        head = f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers)
        if chunked:
            payload = (head + "Transfer-Encoding: chunked\r\n\r\n").encode()
            at, size = 0, 1
            while at < len(body):  # 1, 4, 13, 40, ... bytes, so that a chunk ends inside of everything
                chunk = body[at : at + size]
                payload += f"{len(chunk):x};part={at}\r\n".encode() + chunk + b"\r\n"
                at, size = at + size, min(3 * size + 1, 16 * 1024)
            payload += b"0\r\nX-Trailer: end\r\n\r\n"
        else:
            payload = (head + f"Content-Length: {len(body)}\r\n\r\n").encode() + body
        try:
            self._sock.settimeout(10)
            self._sock.sendall(payload)
            self._sock.settimeout(0.5)
        except OSError:
            raise _Disconnected from None

    def reset(self) -> None:
        """Closes with an RST and no answer."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        self._sock.close()


class _Worker:
    """One execution environment. Every member below `_change` is guarded by it."""

    def __init__(self, runtime: FakeRuntime, index: int) -> None:
        self._runtime = runtime
        self._index = index
        self._change = threading.Condition()
        self._closed = False
        self._epoch = 0  # of the process; connections of an earlier one are dropped
        self._process: subprocess.Popen[bytes] | None = None
        self._record: ProcessRecord | None = None
        self._exited = True
        self._waiting = 0  # connections blocked in /next
        self._next_count = 0
        self._next_ns = 0  # when the latest /next arrived
        self._order: _Order | None = None
        self._current: Result | None = None
        self._handed_ns = 0
        self._post_resets = 0
        self._post_errors = 0
        self._init_error: tuple[str, bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._driver = threading.Thread(target=self._drive, daemon=True)
        self._driver.start()

    # The process

    def _spawn(self) -> None:
        runtime = self._runtime
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.2)
        environment = runtime.environment(listener.getsockname()[1])
        try:
            process = subprocess.Popen(
                runtime.command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            listener.close()
            raise
        record = ProcessRecord(self._index, process.pid)
        runtime.processes.append(record)
        readers = [
            threading.Thread(target=_drain, args=(process.stdout, record.stdout), daemon=True),
            threading.Thread(target=_drain, args=(process.stderr, record.stderr), daemon=True),
        ]
        with self._change:
            self._process, self._record, self._exited = process, record, False
            self._waiting, self._order, self._init_error = 0, None, None
            self._readers = readers
            epoch = self._epoch
        for thread in readers:
            thread.start()
        threading.Thread(target=self._accept, args=(listener, epoch), daemon=True).start()
        threading.Thread(target=self._reap, args=(process, record), daemon=True).start()

    def _reap(self, process: subprocess.Popen[bytes], record: ProcessRecord) -> None:
        code = process.wait()
        with self._change:
            record.exit_code = code
            if self._process is process:
                self._exited = True
                self._epoch += 1
            self._change.notify_all()

    def _kill(self) -> None:
        """Returns once the process is gone and its output is complete."""
        with self._change:
            process, readers = self._process, self._readers
        if process is None:
            return
        if process.returncode is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                process.kill()
        with self._change:
            self._change.wait_for(lambda: self._exited, timeout=10)
        for thread in readers:
            thread.join(timeout=5)

    def _task_states(self) -> set[str]:
        assert self._process is not None
        states = set()
        try:
            for task in os.listdir(f"/proc/{self._process.pid}/task"):
                with open(f"/proc/{self._process.pid}/task/{task}/stat") as f:
                    states.add(f.read().rpartition(")")[2].split()[0])
        except OSError:
            pass
        return states

    def _until(self, condition: Callable[[set[str]], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition(self._task_states()) and time.monotonic() < end:
            time.sleep(0.0005)

    def _freeze(self, ms: float) -> float:
        """Requires that the process is blocked in /next. Returns for how many ms it stood still."""
        assert self._process is not None
        self._until(lambda states: states <= {"S"}, 0.25)
        self._process.send_signal(signal.SIGSTOP)
        self._until(lambda states: states <= {"T"}, 1)
        start = time.perf_counter_ns()
        with self._change:
            self._change.wait_for(lambda: self._closed or self._exited, timeout=ms / 1000)
        frozen = (time.perf_counter_ns() - start) / 1e6
        self._process.send_signal(signal.SIGCONT)
        self._until(lambda states: "T" not in states, 1)
        return frozen

    # The server

    def _accept(self, listener: socket.socket, epoch: int) -> None:
        with listener:
            while not self._closed and self._epoch == epoch:
                try:
                    sock, _ = listener.accept()
                except TimeoutError:
                    continue
                except OSError:
                    return
                threading.Thread(target=self._serve, args=(sock, epoch), daemon=True).start()

    def _serve(self, sock: socket.socket, epoch: int) -> None:
        connection = _Connection(sock, lambda: self._epoch == epoch and not self._closed)
        try:
            while True:
                method, path, headers, body = connection.request()
                arrived = time.perf_counter_ns()
                if method == "GET" and path == f"{API}/invocation/next":
                    keep = self._next(connection, epoch, arrived)
                elif method == "POST":
                    keep = self._post(connection, path, headers, body, arrived)
                else:
                    connection.answer(404, b'{"errorType":"NotFound"}')
                    keep = True
                if not keep:
                    return
        except _Disconnected:
            pass
        finally:
            connection.close()

    def _next(self, connection: _Connection, epoch: int, arrived: int) -> bool:
        with self._change:
            if epoch != self._epoch:
                return False
            self._next_ns = arrived
            self._next_count += 1
            self._waiting += 1
            self._change.notify_all()
            self._change.wait_for(lambda: self._order or self._closed or epoch != self._epoch)
            if self._closed or epoch != self._epoch:
                return False
            order, self._order = self._order, None
            assert order is not None
            self._waiting -= 1
            self._change.notify_all()
            if order.kind == "event":
                self._handed_ns = time.perf_counter_ns()
        if order.kind == "reset":
            connection.reset()
            return False
        if order.kind == "status":
            connection.answer(503, b'{"errorType":"ServiceUnavailable"}')
            return True
        assert order.event is not None
        connection.answer(200, order.event.body, order.headers, order.event.chunked)
        return True

    def _post(self, connection: _Connection, path: str, headers: Mapping[str, str], body: bytes, arrived: int) -> bool:
        error_type = headers.get("lambda-runtime-function-error-type", "")
        status, answer = 202, b'{"status":"OK"}'
        with self._change:
            current = self._current
            if path == f"{API}/init/error":
                self._init_error = error_type, body
            elif current is None or path not in [f"{API}/invocation/{current.request_id}/{p}" for p in ("response", "error")]:
                status, answer = 400, b'{"errorType":"InvalidRequestID"}'
            elif self._post_resets > 0:
                self._post_resets -= 1
                status = 0
            elif self._post_errors > 0:
                self._post_errors -= 1
                status, answer = 503, b'{"errorType":"ServiceUnavailable"}'
            elif len(body) > MAX_RESPONSE:
                status, answer = 413, b'{"errorType":"RequestEntityTooLarge"}'
            elif current.status:
                status, answer = 400, b'{"errorType":"InvalidStateTransition"}'
            else:
                current.status = "response" if path.endswith("/response") else "error"
                current.body, current.error_type = body, error_type
                current.latency_ms = (arrived - self._handed_ns) / 1e6
        if status == 0:
            connection.reset()
            return False
        connection.answer(status, answer)
        return True

    # The life of an event

    def _drive(self) -> None:
        while True:
            item = self._runtime.take()
            if item is None:
                break
            event, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._run(event))
            except BaseException as error:  # the thread must live on, and the caller must hear of it
                future.set_exception(error)
        self._kill()

    def _give(self, order: _Order) -> None:
        """Requires a connection in /next; returns once it has taken the order."""
        with self._change:
            self._order = order
            self._change.notify_all()
            self._change.wait_for(lambda: self._order is None or self._exited or self._closed, timeout=10)

    def _wait_for_next(self, seconds: float) -> bool:
        with self._change:
            self._change.wait_for(lambda: self._waiting > 0 or self._exited or self._closed, timeout=seconds)
            return self._waiting > 0 and not self._exited

    def _run(self, event: Event) -> Result:
        result = Result(label=event.label, request_id=str(uuid.uuid4()), worker=self._index)
        if self._exited:
            self._spawn()
        assert self._process is not None and self._record is not None
        result.pid = self._process.pid
        result.cold = self._record.handled == 0

        faults = [_Order("reset")] * event.next_resets + [_Order("status")] * event.next_errors
        for fault in [*faults, None]:
            if not self._wait_for_next(self._runtime.init_timeout_ms / 1000):
                return self._failed_init(result)
            if fault:
                self._give(fault)
        if event.freeze_ms > 0 and not result.cold:
            result.frozen_ms = self._freeze(event.freeze_ms)

        with self._change:
            if self._exited or self._closed:
                return self._ended(result, "cancelled" if self._closed else "exit")
            self._current = result
            self._post_resets, self._post_errors = event.response_resets, event.response_errors
            self._handed_ns = time.perf_counter_ns()
            before = self._next_count
            self._record.handled += 1
        end = time.monotonic() + event.timeout_ms / 1000
        root, parent = uuid.uuid4().hex, uuid.uuid4().hex
        headers = [
            ("Lambda-Runtime-Aws-Request-Id", result.request_id),
            ("Lambda-Runtime-Deadline-Ms", str(time.time_ns() // 1_000_000 + event.timeout_ms)),
            ("Lambda-Runtime-Trace-Id", f"Root=1-{int(time.time()):08x}-{root[:24]};Parent={parent[:16]};Sampled=1"),
            ("Lambda-Runtime-Invoked-Function-Arn", f"arn:aws:lambda:eu-central-1:123456789012:function:{self._runtime.name}"),
        ]
        self._give(_Order("event", headers, event))
        with self._change:
            self._change.wait_for(
                lambda: self._next_count > before or self._exited or self._closed, timeout=max(0.0, end - time.monotonic())
            )
            self._current = None
            finished = time.perf_counter_ns()
            if self._next_count > before and not self._exited:
                result.busy_ms = (self._next_ns - self._handed_ns) / 1e6
                result.status = result.status or "no response"
                return result
            result.busy_ms = (finished - self._handed_ns) / 1e6
            exited, closed = self._exited, self._closed
        return self._ended(result, "exit" if exited else "cancelled" if closed else "timeout")

    def _failed_init(self, result: Result) -> Result:
        with self._change:
            running, closed, error = not self._exited, self._closed, self._init_error
        self._ended(result, "cancelled" if closed else "init timeout" if running else "init error" if error else "exit")
        if error:
            result.error_type, result.body = error
        return result

    def _ended(self, result: Result, status: str) -> Result:
        """Ends the process. A response that was posted before stays the event's status."""
        result.status = result.status or status
        self._kill()
        result.exit_code = self._record.exit_code if self._record else None
        return result

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._driver.join(timeout=15)
        self._kill()


def _drain(stream, into: bytearray) -> None:
    with stream:
        while data := stream.read1(64 * 1024):
            into += data


class FakeRuntime:
    """Thread-safe. Leaving the block, or close(), ends all processes."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, workers: int = 1, name: str = "function",
        memory_mb: int = 1769, init_timeout_ms: int = 10_000,
    ) -> None:  # fmt: skip
        self.command = [os.path.abspath(command[0]), *command[1:]]
        self.name = name
        self.init_timeout_ms = init_timeout_ms
        self.processes: list[ProcessRecord] = []
        self._env = dict(env or {})
        self._memory_mb = memory_mb
        self._events: queue.SimpleQueue[tuple[Event, concurrent.futures.Future[Result]] | None] = queue.SimpleQueue()
        self._workers = [_Worker(self, i) for i in range(workers)]
        self._closed = False
        _open.add(self)

    def environment(self, port: int) -> dict[str, str]:
        """What Lambda sets, and of this process's environment only what a build needs to run at all."""
        root = os.path.dirname(self.command[0])
        return {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self._memory_mb),
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"2025/07/25/[$LATEST]{uuid.uuid4().hex}",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "LAMBDA_TASK_ROOT": root,
            "LAMBDA_RUNTIME_DIR": root,
            "_HANDLER": "bootstrap.handler",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            **self._env,
        }

    def take(self) -> tuple[Event, concurrent.futures.Future[Result]] | None:
        return self._events.get()

    def submit(self, event: Event) -> concurrent.futures.Future[Result]:
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        self._events.put((event, future))
        return future

    def run(self, events: Iterable[Event], timeout: float = 600) -> list[Result]:
        """The results in the order of the events; with several workers the events run side by side."""
        end = time.monotonic() + timeout
        return [f.result(max(0.0, end - time.monotonic())) for f in [self.submit(e) for e in events]]

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            while item := self._events.get_nowait():
                item[1].cancel()
        except queue.Empty:
            pass
        for _ in self._workers:
            self._events.put(None)
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> FakeRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_open: weakref.WeakSet[FakeRuntime] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for runtime in list(_open):
        runtime.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs a function against a fake of the Lambda Runtime API.")
    parser.add_argument("--event", action="append", default=[], metavar="FILE", help="event to send; may be repeated")
    parser.add_argument("--repeat", type=int, default=1, help="how often the events are sent")
    parser.add_argument("--freeze-ms", type=float, default=0, help="freeze of a warm process before each event")
    parser.add_argument("--timeout-ms", type=int, default=10_000)
    parser.add_argument("--chunked", action="store_true", help="send the events in chunks")
    parser.add_argument("--next-resets", type=int, default=0)
    parser.add_argument("--next-errors", type=int, default=0)
    parser.add_argument("--response-resets", type=int, default=0)
    parser.add_argument("--response-errors", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("command", nargs="+", help="the function; put -- before it")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    faults = {name: getattr(options, name) for name in ("next_resets", "next_errors", "response_resets", "response_errors")}
    bodies = [(path, open(path, "rb").read()) for path in options.event] or [("{}", b"{}")]
    events = [
        Event(body, path, options.timeout_ms, options.freeze_ms, options.chunked, **faults)
        for _ in range(options.repeat)
        for path, body in bodies
    ]
    environment = dict(pair.split("=", 1) for pair in options.env)
    ok = True
    with FakeRuntime(options.command, env=environment, workers=options.workers) as runtime:
        for future in [runtime.submit(event) for event in events]:
            result = dataclasses.asdict(future.result())
            ok = ok and result["status"] == "response"
            try:
                result["body"] = result["body"].decode()
            except UnicodeDecodeError:
                result["body"] = "base64:" + base64.b64encode(result["body"]).decode()
            print(json.dumps(result), flush=True)
    for process in runtime.processes:
        sys.stderr.write(process.stderr.decode(errors="replace"))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
