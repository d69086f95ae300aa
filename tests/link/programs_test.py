"""A tiny function records the same however it is built: without exceptions and RTTI, static, optimised at link time, with unused
sections collected, without the counter; and its profile carries the build id that readelf shows."""

import pathlib
import platform
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support

# name: (flags of the compiler, flags of the linker)
WAYS = {
    "plain": ([], ["-Wl,--build-id"]),
    "optimised": (["-O3", "-fno-plt"], ["-Wl,--build-id=sha1"]),
    "unoptimised": (["-O0"], []),
    "without_build_id": ([], ["-Wl,--build-id=none"]),
    "without_exceptions_and_rtti": (["-fno-exceptions", "-fno-rtti"], []),
    "static": ([], ["-static"]),
    "static_pie": (["-fPIE"], ["-static-pie"]),
    "no_pie": (["-fno-pie"], ["-no-pie"]),
    "lto": (["-flto"], ["-flto"]),
    "lto_hidden": (["-flto", "-fvisibility=hidden", "-O2"], ["-flto"]),
    "gc_sections": (["-ffunction-sections", "-fdata-sections"], ["-Wl,--gc-sections"]),
    "gc_sections_lld": (["-ffunction-sections", "-fdata-sections"], ["-Wl,--gc-sections", "-fuse-ld=lld"]),
    "without_counter": (["-DTHAW_USE_COUNTER=0"], []),
    "without_guard": (["-DTHAW_USE_CONFIG_GUARD=0"], []),
    "exported": ([], ["-rdynamic"]),
}
SANITIZED = ("plain", "without_counter")


def build_id(program):
    """The build id as readelf shows it; None without readelf."""
    try:
        notes = subprocess.run(["readelf", "-n", str(program)], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return None
    found = re.search(r"Build ID: ([0-9a-f]+)", notes)
    return found.group(1) if found else ""


def main():
    options = support.arguments()
    verdict = support.verdict()
    here = pathlib.Path(__file__).parent
    build = support.program(options)
    ways = {name: way for name, way in WAYS.items() if options.sanitize == "none" or name in SANITIZED}
    clang = "clang" in subprocess.run([*options.compiler, "--version"], capture_output=True, text=True).stdout
    sources = [here / "tiny.cpp", here / "tiny_second.cpp"]
    units = {f"{source.stem}_{name}": (source, flags) for name, (flags, _) in ways.items() for source in sources}
    objects, said = build.objects(units)
    if not objects:
        verdict.fail(f"does not compile:\n{said}")
    for name, (flags, link_flags) in ways.items():
        pair = [build.path / f"{source.stem}_{name}.o" for source in sources]
        if not all(path.exists() for path in pair):
            continue
        if clang and "-flto" in link_flags:
            link_flags = [*link_flags, "-fuse-ld=lld"]  # clang's own linker understands its bitcode
        program = build.path / name
        linked = build.run(*build.command(*[flag for flag in flags if flag.startswith(("-O", "-f"))], *link_flags, *pair,
                                          "-o", program))
        if linked.returncode != 0:
            # What the machine has not got is no defect: another linker, one as new as the compiler, or static libraries.
            if re.search(r"invalid linker name|cannot find 'ld|Opaque pointers|Invalid record|cannot find -l|rcrt1|unable to execute command", linked.stderr):
                print(f"{name}: not built here: {linked.stderr.strip().splitlines()[0]}")
                continue
            verdict.fail(f"{name} does not link:\n{linked.stderr}")
            continue
        ran = build.run(program)
        verdict.check(ran.returncode == 0, f"{name} ends with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
        expected = build_id(program)
        if expected is not None and ran.returncode == 0:
            verdict.check(f"build id {expected}\n" in ran.stdout, f"{name}: the file's is {expected}: {ran.stdout}")
        if name == "without_build_id":
            verdict.check("build id \n" in ran.stdout, f"{name}: {ran.stdout}")
    verdict.close("programs")


main()
