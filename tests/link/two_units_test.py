"""Two units that include every header link into one program, which sees one thaw and runs."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support


def main():
    options = support.arguments()
    verdict = support.verdict()
    here = pathlib.Path(__file__).parent
    build = support.program(options)
    objects, said = build.objects({"one": (here / "one.cpp", []), "two": (here / "two.cpp", [])})
    if not objects:
        verdict.fail(f"does not compile:\n{said}")
    elif (linked := build.link(objects)).returncode != 0:
        verdict.fail(f"does not link:\n{linked.stderr}")
    elif (ran := build.run(build.path / "program")).returncode != 0:
        verdict.fail(f"ends with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    verdict.close("two units")


main()
