"""Two units that differ in a knob are refused by the linker, in either order, with a message that names thaw_configuration;
units that agree link."""

import itertools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support

KNOB = "THAW_USE_COUNTER"


def main():
    options = support.arguments()
    verdict = support.verdict()
    source = pathlib.Path(__file__).parent / "marked.cpp"
    build = support.program(options)
    units = {f"{name}_{value}": (source, [f"-D{KNOB}={value}", f"-DTHAW_TEST_UNIT={number}"])
             for (number, name), value in itertools.product(enumerate(("one", "two"), 1), (0, 1))}
    objects, said = build.objects(units)
    if not objects:
        verdict.fail(f"does not compile:\n{said}")
        verdict.close("configuration mismatch")
    for first, second in itertools.product((0, 1), (0, 1)):
        for pair in ((f"one_{first}", f"two_{second}"), (f"two_{second}", f"one_{first}")):
            linked = build.link([build.path / f"{name}.o" for name in pair])
            if first == second:
                verdict.check(linked.returncode == 0, f"{' + '.join(pair)} agree and do not link:\n{linked.stderr}")
            else:
                verdict.check(linked.returncode != 0, f"{' + '.join(pair)} differ in {KNOB} and link")
                verdict.check("thaw_configuration" in linked.stderr and KNOB in linked.stderr,
                              f"{' + '.join(pair)}: the linker does not name the knob:\n{linked.stderr}")
    verdict.close("configuration mismatch")


main()
