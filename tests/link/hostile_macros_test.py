"""No header stumbles over macros that other libraries are known to define."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support


def main():
    options = support.arguments()
    verdict = support.verdict()
    build = support.program(options)
    for enabled in (0, 1):
        objects, said = build.objects({f"hostile_{enabled}": (pathlib.Path(__file__).with_name("hostile_macros.cpp"),
                                                             [f"-DTHAW_ENABLED={enabled}"])})
        if not objects:
            verdict.fail(f"THAW_ENABLED={enabled} does not compile:\n{said}")
        elif (linked := build.link(objects)).returncode != 0:
            verdict.fail(f"THAW_ENABLED={enabled} does not link:\n{linked.stderr}")
        elif (ran := build.run(build.path / "program")).returncode != 0:
            verdict.fail(f"THAW_ENABLED={enabled} ends with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    verdict.close("hostile macros")


main()
