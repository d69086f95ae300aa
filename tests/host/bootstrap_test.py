"""Runs examples/bootstrap against a fake Runtime API and holds thaw's figures against the host's own.

    bootstrap_test.py BOOTSTRAP_WITH_THAW BOOTSTRAP_WITHOUT_THAW [--events N] [--freeze-ms M]

The two programs are examples/bootstrap.cpp, built as it is and with -DTHAW_ENABLED=0.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

from fake_runtime import Event, FakeRuntime, ProcessRecord, Result

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
EVENTS = REPOSITORY / "examples" / "events"
CORPUS_BYTES = 400_000

TOLERANCE_MS = 1.0  # of the median, and of every single duration
REAL_WORK_MS = 20.0
LARGE = ("large_v1", "large_v2_base64")
SMALL = ("http_v2", "rest_v1", "base64_v2", "unicode_v2", "hostile_bad_json", "hostile_empty_body", "not_a_proxy_event")

Report = dict


class Failure(Exception):
    pass


def check(condition: object, message: str) -> None:
    if not condition:
        raise Failure(message)


def write_corpus(directory: str) -> str:
    """The repository's own words in one file, so that nothing that changes meanwhile changes an answer."""
    sources = sorted(
        path
        for pattern in ("README.md", "include/**/*.hpp", "examples/**/*.?pp", "tests/**/*.?pp", "tests/**/*.py")
        for path in REPOSITORY.glob(pattern)
    )
    text = b"\n".join(path.read_bytes() for path in sources)[:CORPUS_BYTES]
    check(text, "no sources to take words from")
    corpus = pathlib.Path(directory, "corpus.txt")
    corpus.write_bytes(text)
    return str(corpus)


def event(name: str, **how: object) -> Event:
    return Event((EVENTS / f"{name}.json").read_bytes(), name, **how)  # type: ignore[arg-type]


def mixed_events(count: int, freeze_ms: float) -> list[Event]:
    """Three large events in five, the others in turn."""
    large, small = 0, 0
    events = []
    for i in range(count):
        if i % 5 in (0, 2, 3):
            name, large = LARGE[large % len(LARGE)], large + 1
        else:
            name, small = SMALL[small % len(SMALL)], small + 1
        events.append(event(name, freeze_ms=freeze_ms))
    return events


def reports_of(process: ProcessRecord) -> list[Report]:
    return [json.loads(line) for line in process.stderr.splitlines() if line.startswith(b'{"thaw":1,')]


def answers(results: list[Result]) -> list[tuple[str, str, bytes]]:
    return [(r.label, r.status, r.body) for r in results]


def check_same(a: list[Result], b: list[Result], what: str) -> None:
    check(len(a) == len(b), f"{what}: {len(a)} and {len(b)} answers")
    for i, (x, y) in enumerate(zip(answers(a), answers(b))):
        check(x == y, f"{what}: event {i} ({x[0]}): {x[1]} {x[2][:200]!r} and {y[1]} {y[2][:200]!r}")


class Suite:
    def __init__(self, with_thaw: str, without_thaw: str, events: int, freeze_ms: float, corpus: str) -> None:
        self.with_thaw = with_thaw
        self.without_thaw = without_thaw
        self.events = events
        self.freeze_ms = freeze_ms
        self.env = {"BOOTSTRAP_CORPUS": corpus, "THAW_REPORT_EVERY_MS": "0"}

    def run(self, program: str, events: list[Event], workers: int = 1, **env: str) -> tuple[list[Result], list[ProcessRecord]]:
        with FakeRuntime([program], env={**self.env, **env}, workers=workers, name="words") as runtime:
            results = runtime.run(events)
        return results, runtime.processes

    # Cases

    def active_time_is_busy_time_whatever_the_freezes(self) -> None:
        events = mixed_events(self.events, self.freeze_ms)
        # The cost of the last event's report is in the report after it.
        results, processes = self.run(self.with_thaw, [*events, event("http_v2")])
        check(len(processes) == 1, f"{len(processes)} processes instead of one")
        for r in results:
            check(r.status in ("response", "error"), f"{r.label}: {r.status}, exit code {r.exit_code}")
        reports = {r["invocations"]: r for r in reports_of(processes[0])}
        missing = [k for k in range(1, len(results) + 1) if k not in reports]
        check(not missing, f"no report counts these invocations: {missing}; {len(reports)} reports for {len(results)} events")
        check(max(reports) == len(results), f"{max(reports)} invocations counted, {len(results)} made")

        errors, own_costs, covered = [], [], []
        nothing = {"active_ns": 0, "collecting_ns": 0, "reporting_ns": 0}
        for k, result in enumerate(results[:-1], start=1):
            before, now, after = reports.get(k - 1, nothing), reports[k], reports[k + 1]
            active = (now["active_ns"] - before["active_ns"]) / 1e6
            own = (now["collecting_ns"] - before["collecting_ns"] + after["reporting_ns"] - now["reporting_ns"]) / 1e6
            check(active > 0, f"event {k}: no active time")
            if result.busy_ms >= REAL_WORK_MS:
                errors.append(abs(result.busy_ms - active - own))
                own_costs.append(own)
                covered.append(result.busy_ms)
        check(len(errors) * 2 >= self.events, f"only {len(errors)} of {self.events} events have {REAL_WORK_MS} ms of work")
        errors.sort()
        frozen = sum(r.frozen_ms for r in results)
        median = statistics.median(errors)
        print(
            f"  {len(errors)} events of {min(covered):.1f} to {max(covered):.1f} ms, {frozen:.0f} ms frozen: "
            f"|busy - active - own cost| median {median:.3f} ms, p90 {errors[len(errors) * 9 // 10]:.3f} ms, "
            f"max {errors[-1]:.3f} ms; own cost median {statistics.median(own_costs):.3f} ms"
        )
        check(median <= TOLERANCE_MS, f"the median difference is {median:.3f} ms")

        longest_busy = longest_node = 0.0
        for k, result in enumerate(results, start=1):
            longest_busy = max(longest_busy, result.busy_ms)
            for node in reports[k]["nodes"]:
                longest = node["max_ns"] / 1e6
                longest_node = max(longest_node, longest)
                check(
                    longest <= longest_busy + TOLERANCE_MS,
                    f"event {k}: {node['kind']} {node['path']} lasted {longest:.3f} ms, no event so far {longest_busy:.3f} ms",
                )
        handlers = [n for n in reports[len(results)]["nodes"] if n["kind"] == "handler"]
        check([(n["path"], n["calls"]) for n in handlers] == [("score", len(results))], f"handlers: {handlers}")
        names = {n["path"].rpartition(" > ")[2] for n in reports[len(results)]["nodes"]}
        wanted = {"parse", "score.text", "nearest", "worker.answer", "worker.score", "worker.idle", "render", "runtime.post"}
        check(wanted <= names, f"no node for {sorted(wanted - names)}")
        print(f"  longest node {longest_node:.3f} ms, longest event {longest_busy:.3f} ms, {len(results)} invocations counted")

        without, _ = self.run(self.without_thaw, events)
        check_same(results[:-1], without, "with and without thaw")
        unfrozen, _ = self.run(self.with_thaw, mixed_events(self.events, 0))
        check_same(results[:-1], unfrozen, "with and without freezes")
        busy = [
            statistics.median(r.busy_ms for r in run if r.label == LARGE[0]) for run in (results[:-1], unfrozen, without)
        ]
        print(f"  {LARGE[0]}: median busy {busy[0]:.2f} ms, unfrozen {busy[1]:.2f} ms, without thaw {busy[2]:.2f} ms")

    def chunked_events_are_read(self) -> None:
        names = ("large_v1", "unicode_v2", "hostile_bad_json")
        for program in (self.with_thaw, self.without_thaw):
            plain, _ = self.run(program, [event(n) for n in names])
            chunked, _ = self.run(program, [event(n, chunked=True) for n in names])
            check_same(plain, chunked, "plain and chunked")

    def resets_and_server_errors_are_survived(self) -> None:
        for program in (self.with_thaw, self.without_thaw):
            plain, _ = self.run(program, [event("http_v2")])
            faulty, processes = self.run(
                program,
                [
                    event("http_v2", next_resets=2, next_errors=1),
                    event("http_v2", next_resets=1),
                    event("http_v2", response_resets=1),
                    event("http_v2", response_errors=2),
                    event("http_v2", next_errors=2, response_resets=1, response_errors=1),
                ],
            )
            check_same(plain * len(faulty), faulty, "without and with faults")
            check(len(processes) == 1, f"{len(processes)} processes instead of one")
            check(b"/next" in processes[0].stderr and b"503" in processes[0].stderr, "the faults are not on stderr")

    def an_event_beyond_its_deadline_is_killed_and_the_next_is_cold(self) -> None:
        for program in (self.with_thaw, self.without_thaw):
            results, processes = self.run(
                program, [event("http_v2"), event("large_v1", timeout_ms=5), event("http_v2"), event("http_v2", freeze_ms=20)]
            )
            check([r.status for r in results] == ["response", "timeout", "response", "response"], f"{answers(results)}")
            check([r.cold for r in results] == [True, False, True, False], f"cold: {[r.cold for r in results]}")
            check(results[1].exit_code == -signal.SIGKILL, f"exit code {results[1].exit_code}")
            check(len({p.pid for p in processes}) == 2, f"processes: {[p.pid for p in processes]}")
            check(results[0].body == results[2].body == results[3].body, "the answers differ")

    def two_workers_answer_side_by_side(self) -> None:
        events = [event("large_v1") for _ in range(8)]
        one, _ = self.run(self.with_thaw, events[:1])
        results, processes = self.run(self.with_thaw, events, workers=2)
        check_same(one * len(results), results, "one and two workers")
        check(len({r.pid for r in results}) == 2, f"processes: {sorted({r.pid for r in results})}")
        for process in processes:
            counted = max((r["invocations"] for r in reports_of(process)), default=0)
            check(counted == process.handled, f"process {process.pid}: {counted} invocations counted, {process.handled} made")

    def bad_input_is_answered(self) -> None:
        def proxy(body: object, **more: object) -> bytes:
            return json.dumps({"httpMethod": "POST", "path": "/", "body": body, "isBase64Encoded": False, **more}).encode()

        refused = [event(path.stem) for path in sorted(EVENTS.glob("hostile_*.json"))]
        bodies = ["", "null", "[]", "{}", "{", "01", "\0", 5]
        bodies += ['{"text":7}', '{"text":"\\u12"}', '{"text":"\x01"}', '{"text":"a"} b']
        refused += [Event(proxy(body), f"body {body!r}"[:60]) for body in bodies]
        refused += [
            Event(proxy("gA==", isBase64Encoded=True), "base64 of no UTF-8"),
            Event(proxy("e30", isBase64Encoded=True), "base64 without padding"),
            Event(proxy(json.dumps({"text": "word " * 60_000})), "text too large"),
            Event(proxy("[" * 100_000), "deep body"),
        ]
        failed = [event("not_a_proxy_event")]
        no_events = (b"", b"{", b"[1,2", b"\xff", b'{"httpMethod":1}', b"[" * 100_000)
        failed += [Event(body, f"event {body!r}"[:60]) for body in no_events]
        for program in (self.with_thaw, self.without_thaw):
            results, processes = self.run(program, [*refused, *failed, event("http_v2")])
            check(len(processes) == 1, f"{len(processes)} processes instead of one")
            for r in results[: len(refused)]:
                check(r.status == "response", f"{r.label}: {r.status} {r.body[:200]!r}")
                answer = json.loads(r.body)
                check(400 <= answer["statusCode"] < 500, f"{r.label}: {answer}")
                check(json.loads(answer["body"])["message"], f"{r.label}: no message")
            for r in results[len(refused) : -1]:
                check(r.status == "error" and r.error_type == "Function.EventError", f"{r.label}: {r.status} {r.error_type}")
                error = json.loads(r.body)
                check(error["errorType"] == r.error_type and error["errorMessage"], f"{r.label}: {error}")
            check(json.loads(results[-1].body)["statusCode"] == 200, "no answer after bad input")

    def answers_are_right(self) -> None:
        """Against the definition, written down once more in Python."""
        with open(self.env["BOOTSTRAP_CORPUS"], "rb") as f:
            results, _ = self.run(self.with_thaw, [event("http_v2"), event("unicode_v2")])
            corpus = words_of(f.read().decode(errors="replace"))
        counts: dict[str, int] = {}
        for word in corpus:
            counts[word] = counts.get(word, 0) + 1
        for r in results:
            text = json.loads(json.loads((EVENTS / f"{r.label}.json").read_bytes())["body"])["text"]
            words = words_of(text)
            answer = json.loads(json.loads(r.body)["body"])
            known = sum(w in counts for w in words)
            numbers = (answer["words"], answer["known"], answer["unknown"])
            check(numbers == (len(words), known, len(words) - known), f"{r.label}: {answer}")
            nearest = {}
            for word in dict.fromkeys(w for w in words if w not in counts):
                near = sorted((d, -counts[c], c) for c in counts if (d := distance(word, c)) <= 2)[:3]
                if near:
                    nearest[word] = (near[0][0], [c for _, _, c in near])
            got = {s["word"]: (s["distance"], s["nearest"]) for s in answer["suggestions"]}
            check(got == nearest, f"{r.label}: suggestions {got} instead of {nearest}")

    def failures_at_the_start_are_reported(self) -> None:
        results, processes = self.run(self.with_thaw, [event("http_v2")], BOOTSTRAP_CORPUS="/nonexistent")
        check(results[0].status == "init error" and results[0].error_type == "Function.InitError", f"{results[0]}")
        check("/nonexistent" in json.loads(results[0].body)["errorMessage"], f"{results[0].body!r}")
        check(results[0].exit_code == 1, f"exit code {results[0].exit_code}")
        alone = self.alone(self.with_thaw, [], AWS_LAMBDA_RUNTIME_API="127.0.0.1:1")
        check(alone.returncode == 1 and b"connect" in alone.stderr, f"no host: {alone.returncode} {alone.stderr[:300]!r}")

    def files_are_answered_without_a_host(self) -> None:
        names = ("http_v2", "rest_v1", "unicode_v2", "hostile_bad_json")
        files = [str(EVENTS / f"{n}.json") for n in names]
        results, _ = self.run(self.with_thaw, [event(n) for n in names])
        expected = b"".join(r.body + b"\n" for r in results)
        for program in (self.with_thaw, self.without_thaw):
            alone = self.alone(program, files)
            check(alone.returncode == 0 and alone.stdout == expected, f"{program}: {alone.returncode} {alone.stderr[-1500:]!r}")
            reports = [json.loads(line) for line in alone.stderr.splitlines() if line.startswith(b'{"thaw":1,')]
            if program == self.with_thaw:
                check(reports and reports[-1]["invocations"] == len(names), f"{len(reports)} reports, {reports[-1:]}")
                text = self.alone(program, files, BOOTSTRAP_REPORT="text")
                check(text.stdout == expected and text.stderr and b'{"thaw"' not in text.stderr, "no text report")
            else:
                check(alone.stderr == b"", f"without thaw, but {alone.stderr[:300]!r}")
        check(self.alone(self.with_thaw, []).returncode == 2, "neither host nor files, but the exit code is not 2")

    def alone(self, program: str, arguments: list[str], **env: str) -> subprocess.CompletedProcess[bytes]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "THAW_", "BOOTSTRAP_"))}
        return subprocess.run([program, *arguments], env={**inherited, **self.env, **env}, capture_output=True, timeout=60)


def words_of(text: str) -> list[str]:
    """Requires letters of Latin, Greek, Cyrillic and Han only: the function's blocks and Python's tables agree on these."""
    words, word = [], ""
    for c in text + " ":
        if c.isalpha() and not (0x80 <= ord(c) < 0xC0) or 0x300 <= ord(c) < 0x370:
            word += c.lower()
        else:
            if len(word) > 1:
                words.append(word)
            word = ""
    return words


def distance(a: str, b: str) -> int:
    """Levenshtein, or 3 where the lengths alone say more than 2."""
    if abs(len(a) - len(b)) > 2:
        return 3
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
        if min(row) > 2:
            return 3
    return row[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("with_thaw", type=os.path.abspath)
    parser.add_argument("without_thaw", type=os.path.abspath)
    parser.add_argument("--events", type=int, default=40)
    parser.add_argument("--freeze-ms", type=float, default=120)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        suite = Suite(options.with_thaw, options.without_thaw, options.events, options.freeze_ms, write_corpus(directory))
        cases: list[Callable[[], None]] = [
            suite.active_time_is_busy_time_whatever_the_freezes,
            suite.chunked_events_are_read,
            suite.resets_and_server_errors_are_survived,
            suite.an_event_beyond_its_deadline_is_killed_and_the_next_is_cold,
            suite.two_workers_answer_side_by_side,
            suite.bad_input_is_answered,
            suite.answers_are_right,
            suite.failures_at_the_start_are_reported,
            suite.files_are_answered_without_a_host,
        ]
        for case in cases:
            if options.only not in case.__name__:
                continue
            print(case.__name__, flush=True)
            try:
                case()
            except Exception as error:
                failures += 1
                print(f"  FAILED: {error if isinstance(error, Failure) else repr(error)}", flush=True)
    print(f"{failures} failed" if failures else "ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
