#!/usr/bin/env python3
"""What thaw costs the compiler and the program's size, as one JSON object per compiler.

  empty_ms, probe_ms, thaw_ms   CPU time (user + system, children included) to compile an empty unit, one that
                                includes <thaw/probe.hpp>, one that includes <thaw/thaw.hpp>: -O2 -std=c++20,
                                medians of interleaved runs
  probe_added_ms, thaw_added_ms the same over the empty unit
  site_bytes                    code per scope: text, unwind and exception tables of a unit of 1,000 functions with a
                                scope in each, over the same functions without; its parts are
                                site_text_bytes and site_unwind_bytes

A figure whose header does not exist is left out.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

SITES = 1000
UNITS = {"empty": "", "probe": "#include <thaw/probe.hpp>\n", "thaw": "#include <thaw/thaw.hpp>\n"}


def compile_unit(compiler, include, source, output):
    """CPU milliseconds of the compiler and all it starts."""
    child = subprocess.Popen([compiler, "-std=c++20", "-O2", f"-I{include}", "-c", str(source), "-o", str(output)])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"compile_cost: {compiler} cannot compile {source.name}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def code_bytes(path):
    """(bytes of code, bytes of unwind and exception tables) of an object file."""
    text = unwind = 0
    for line in subprocess.run(["size", "-A", str(path)], capture_output=True, text=True, check=True).stdout.splitlines():
        words = line.split()
        if len(words) == 3 and words[1].isdigit():
            if words[0].startswith(".text"):
                text += int(words[1])
            elif words[0].startswith((".eh_frame", ".gcc_except_table")):
                unwind += int(words[1])
    return text, unwind


def functions(marker):
    body = "".join(f'void f{i}() {{ {marker.replace("N", str(i))}work({i}); }}\n' for i in range(SITES))
    return "#include <thaw/probe.hpp>\nvoid work(int);\n" + body


def measure(compiler, include, runs, folder):
    result = {}
    present = [name for name in UNITS if name == "empty" or (include / "thaw" / f"{name}.hpp").exists()]
    for name in present:
        (folder / f"{name}.cpp").write_text(UNITS[name])
    times = {name: [] for name in present}
    for _ in range(runs):
        for name in present:
            times[name].append(compile_unit(compiler, include, folder / f"{name}.cpp", folder / "unit.o"))
    for name in present:
        result[f"{name}_ms"] = round(statistics.median(times[name]), 1)
        if name != "empty":
            result[f"{name}_added_ms"] = round(statistics.median(times[name]) - statistics.median(times["empty"]), 1)
    if "probe" in present:
        sizes = {}
        for name, marker in {"bare": "", "marked": 'THAW_SCOPE("bench.site.N"); '}.items():
            source = folder / f"{name}.cpp"
            source.write_text(functions(marker))
            compile_unit(compiler, include, source, folder / f"{name}.o")
            sizes[name] = code_bytes(folder / f"{name}.o")
        text, unwind = (marked - bare for marked, bare in zip(sizes["marked"], sizes["bare"]))
        result |= {"site_bytes": (text + unwind) / SITES, "site_text_bytes": text / SITES,
                   "site_unwind_bytes": unwind / SITES}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--include", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "include")
    parser.add_argument("--compiler", action="append", help="may be repeated; default: g++ and clang++-19, where they exist")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    compilers = options.compiler or [name for name in ("g++", "clang++-19") if shutil.which(name)]
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder:
        print(json.dumps({compiler: measure(compiler, options.include.resolve(), options.runs, pathlib.Path(folder))
                          for compiler in compilers}, indent=2))


main()
