"""The house holds together: who includes whom, how a header opens, how long it is."""

import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support

# What the headers of a folder may include besides those of the folder itself. "core/*" is a folder, "core/config" a header.
FOUNDATION = {"core/config", "core/histogram"}
MAY_USE = {
    "core": set(),
    "profile": FOUNDATION,
    "probe": {"core/*"},
    "hook": {"core/*"},
    "sampler": {"core/*"},
    "report": FOUNDATION | {"profile/*"},
    "analyze": FOUNDATION | {"profile/*"},
    "sink": {"core/config"},
    "agent": {"core/*", "probe/*", "sampler/*", "profile/*"},
    "host": {"core/config", "agent/*"},
    "probe.hpp": {"core/*", "probe/*"},
    "thaw.hpp": {"probe.hpp", "core/*", "probe/*", "agent/*", "profile/*", "report/text", "sink/*"},
}
BRIDGE = "agent"  # the one folder that knows both the recording headers of core/ and profile/

# What a translation unit that only carries markers must not pay for, be it through another standard header.
HEAVY = {"atomic", "chrono", "iostream", "memory", "mutex", "string", "vector", "x86intrin.h"}

SAMPLING_CORE = ("core", "probe", "sampler")
# Of code: what a reader must follow. A third of the lines are comments, since contracts and derivations stand with the code. The
# unwinder, for two architectures, has 1,100 of them.
SAMPLING_CORE_LINES = 4000
HEADER_LINES = 500

OPENING = re.compile(r"// thaw floor (\d+)(?: ([a-z]+))?: \S")  # a header beside the folders may leave the layer out
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def layer_of(header):
    """The folder below thaw/, or the file name for the headers beside the folders."""
    return header.split("/")[1]


def short(header):
    """thaw/core/config.hpp -> core/config; thaw/probe.hpp -> probe.hpp"""
    return header[len("thaw/"):-len(".hpp")] if header.count("/") > 1 else header[len("thaw/"):]


def permitted(source, target):
    layer = layer_of(source)
    if layer == layer_of(target):
        return True
    may = MAY_USE.get(layer, set())
    return short(target) in may or layer_of(target) + "/*" in may


def cycle_through(edges):
    """One cycle as a list of headers, or None."""
    state = {}

    def visit(header, path):
        state[header] = "open"
        for target in edges[header]:
            if state.get(target) == "open":
                return path[path.index(target):] + [target]
            if target not in state and (found := visit(target, path + [target])):
                return found
        state[header] = "closed"
        return None

    for header in edges:
        if header not in state and (found := visit(header, [header])):
            return found
    return None


def main():
    options = support.arguments()
    verdict = support.verdict()
    names = support.headers(options.root)
    texts = {name: (options.root / "include" / name).read_text() for name in names}
    verdict.check(names, "include/ holds no header")

    floor, edges, outside = {}, {}, {}
    for name, text in texts.items():
        layer = layer_of(name)
        verdict.check(layer in MAY_USE, f"{name}: {layer} is no part of the house (see MAY_USE)")

        opening = OPENING.match(text)
        if not opening:
            verdict.fail(f"{name}: does not open with '// thaw floor N {'' if layer.endswith('.hpp') else layer}: ...'")
        else:
            floor[name] = int(opening[1])
            verdict.check(layer.endswith(".hpp") or opening[2] == layer,
                          f"{name}: its first line says it is of {opening[2] or 'no layer'}")

        guard = re.sub(r"[^A-Z0-9]", "_", name.upper())
        code = [line for line in text.splitlines() if line.strip() and not line.startswith("//")]
        verdict.check(code[:2] == [f"#ifndef {guard}", f"#define {guard}"] and code[-1].startswith("#endif"),
                      f"{name}: no include guard {guard} around all of it")

        edges[name], outside[name] = [], []
        for bracket, target in INCLUDE.findall(text):
            if bracket == '"':
                verdict.fail(f'{name}: includes "{target}"; headers are included as <thaw/...>')
            elif target in texts:
                edges[name].append(target)
            elif target.startswith("thaw/"):
                verdict.fail(f"{name}: includes <{target}>, which does not exist")
            else:
                outside[name].append(target)
        verdict.check("x86intrin.h" not in outside[name], f"{name}: includes <x86intrin.h> (30 ms of compile time)")

        lines = text.count("\n")
        verdict.check(lines <= HEADER_LINES, f"{name}: {lines} lines, limit {HEADER_LINES}")

    for name, targets in edges.items():
        for target in targets:
            if not permitted(name, target):
                verdict.fail(f"{name}: must not include <{target}>")
            elif name in floor and target in floor:
                verdict.check(floor[target] < floor[name],
                              f"{name}: floor {floor[name]} includes <{target}> of floor {floor[target]}, which is not "
                              f"below it")
        if layer_of(name) not in (BRIDGE, "thaw.hpp"):
            recording = [target for target in targets if layer_of(target) == "core" and short(target) not in FOUNDATION]
            values = [target for target in targets if layer_of(target) == "profile"]
            verdict.check(not (recording and values), f"{name}: only agent/ may know both <{(recording + [''])[0]}> and "
                                                      f"<{(values + [''])[0]}>")
    if cycle := cycle_through(edges):
        verdict.fail("a cycle: " + " -> ".join(cycle))

    hot = set()
    if "thaw/probe.hpp" in texts:
        reached = subprocess.run([*options.compiler, "-std=c++20", f"-I{options.root / 'include'}", "-DTHAW_ENABLED=1", "-M",
                                  "-x", "c++", str(options.root / "include/thaw/probe.hpp")], capture_output=True, text=True)
        verdict.check(reached.returncode == 0, f"probe.hpp cannot be preprocessed:\n{reached.stderr}")
        paths = [pathlib.Path(word) for word in reached.stdout.replace("\\\n", " ").split()[1:]]
        hot = {name for name in texts if options.root / "include" / name in paths}
        for heavy in sorted(HEAVY & {path.name for path in paths}):
            by = [name for name in sorted(hot) if heavy in outside[name]]
            verdict.fail(f"probe.hpp reaches <{heavy}>, by {', '.join(by) or 'another standard header'}")

    lines = sum(1 for name, text in texts.items() if layer_of(name) in SAMPLING_CORE
                for line in text.splitlines() if line.strip() and not line.lstrip().startswith("//"))
    verdict.check(lines <= SAMPLING_CORE_LINES, f"{'/ '.join(SAMPLING_CORE)}/ together: {lines} lines of code, "
                                                f"limit {SAMPLING_CORE_LINES}")
    verdict.close(f"{len(names)} headers, {len(hot)} of them hot, sampling core {lines} lines of code")


main()
