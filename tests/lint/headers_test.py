"""Every header compiles alone, twice in one unit, with and without thaw, and where markers stand also without exceptions
and RTTI. Strict warnings are errors."""

import concurrent.futures
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wsign-conversion", "-Wold-style-cast", "-Wundef",
            "-Wnon-virtual-dtor", "-Werror"]
BARE = ["-fno-exceptions", "-fno-rtti"]


def main():
    options = support.arguments()
    verdict = support.verdict()
    include = options.root / "include"
    # Newer compilers count __COUNTER__ among the extensions that -Wpedantic names.
    known = subprocess.run([*options.compiler, "-Werror", "-Wc2y-extensions", "-fsyntax-only", "-x", "c++", "/dev/null"],
                           capture_output=True).returncode == 0
    quiet = ["-Wno-c2y-extensions"] if known else []

    def compile_alone(job):
        name, flags = job
        said = subprocess.run([*options.compiler, "-std=c++20", "-fsyntax-only", "-x", "c++", f"-I{include}", *WARNINGS,
                               *quiet, *flags, "-"],
                              input=f"#include <{name}>\n#include <{name}>\n", capture_output=True, text=True)
        return None if said.returncode == 0 else f"{name} {' '.join(flags)}:\n{said.stderr}"

    jobs = []
    for name in support.headers(options.root):
        marker = name.split("/")[1] in ("core", "probe", "probe.hpp")
        jobs.append((name, ["-DTHAW_ENABLED=1"]))
        jobs.append((name, ["-DTHAW_ENABLED=0"]))
        if marker:
            jobs.append((name, ["-DTHAW_ENABLED=1", *BARE]))
            jobs.append((name, ["-DTHAW_ENABLED=0", *BARE]))
    verdict.check(jobs, "include/ holds no header")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for message in pool.map(compile_alone, jobs):
            if message:
                verdict.fail(message)
    verdict.close(f"{len(jobs)} units of one header each")


main()
