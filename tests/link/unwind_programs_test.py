"""A program's native stacks are complete and libgcc's however it is linked: static, position-independent or not, without
frame pointers or with them, with functions of a shared object that was loaded later; where a compiler for it and qemu-user are
installed, on aarch64 too."""

import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support

ALONE = ["-DUNWOUND_ALONE"]
# name: (flags, whether a shared object is loaded)
WAYS = {
    "plain": (["-O2"], True),
    "unoptimised": (["-O0"], True),
    "frame_pointers": (["-O2", "-fno-omit-frame-pointer"], True),
    "without_exceptions_and_rtti": (["-O2", "-fno-exceptions", "-fno-rtti"], True),
    "no_pie": (["-O2", "-fno-pie", "-no-pie"], True),
    "bound_at_start": (["-O2", "-Wl,-z,now"], True),
    "static": (["-O2", "-static", *ALONE], False),
    "static_pie": (["-O2", "-fPIE", "-static-pie", *ALONE], False),
}
SIGNED = {"signed_return_addresses": (["-O2", "-static", "-mbranch-protection=standard", *ALONE], False)}
AARCH64 = ["aarch64-linux-gnu-g++"]


def main():
    options = support.arguments()
    verdict = support.verdict()
    here = pathlib.Path(__file__).parent
    if options.sanitize != "none":
        verdict.close("not with a sanitizer: it replaces what is linked")
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        targets = [("", options.compiler, [], WAYS)]
        if shutil.which(AARCH64[0]) and shutil.which("qemu-aarch64"):
            targets.append(("aarch64_", AARCH64, ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"], {**WAYS, **SIGNED}))
        for prefix, compiler, runner, ways in targets:
            for name, (flags, loads) in ways.items():
                program, module = pathlib.Path(folder) / f"{prefix}{name}", pathlib.Path(folder) / f"{prefix}{name}.so"
                commands = [[*compiler, "-std=c++20", "-Wall", "-Wextra", *flags, f"-I{options.root / 'include'}",
                             str(here / "unwound.cpp"), "-pthread", "-ldl", "-o", str(program)]]
                if loads:
                    commands.append([*compiler, "-std=c++20", "-O2", "-fPIC", "-shared", str(here / "unwound_module.cpp"), "-o",
                                     str(module)])
                commands.append([*runner, str(program), *([str(module)] if loads else [])])
                tried += 1
                for command in commands:
                    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
                    if done.returncode != 0:
                        verdict.fail(f"{prefix}{name}: {' '.join(command)} ends with {done.returncode}\n{done.stdout}{done.stderr}")
                        break
    verdict.check(tried >= len(WAYS), "no program was tried")
    verdict.close(f"{tried} programs")


main()
