"""A unit with THAW_ENABLED=0 and one with 1 link into one program, in either order, and so do two with 0."""

import itertools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support


def main():
    options = support.arguments()
    verdict = support.verdict()
    here = pathlib.Path(__file__).parent
    build = support.program(options)
    units = {f"{name}_{enabled}": (here / f"{name}.cpp", [f"-DTHAW_ENABLED={enabled}"])
             for name, enabled in itertools.product(("one", "two"), (0, 1))}
    objects, said = build.objects(units)
    if not objects:
        verdict.fail(f"does not compile:\n{said}")
        verdict.close("disabled unit")
    mixed = (("one_0", "two_1"), ("two_1", "one_0"), ("one_1", "two_0"), ("two_0", "one_1"))
    for first, second in (*mixed, ("one_0", "two_0")):
        linked = build.link([build.path / f"{first}.o", build.path / f"{second}.o"])
        if linked.returncode != 0:
            verdict.fail(f"{first} + {second} does not link:\n{linked.stderr}")
        elif (ran := build.run(build.path / "program")).returncode != 0:
            verdict.fail(f"{first} + {second} ends with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    verdict.close("disabled unit")


main()
