"""Compiled out, a marker costs nothing: compiled_out.cpp with every marker under THAW_ENABLED=0 becomes, byte by byte, the
code of the same functions without thaw, and the containers are the standard ones.

Code, data, relocations and exception tables of every function are compared. Without optimisation that holds for the markers
that are statements; an object, or a call of thaw::wait, is then still code.
"""

import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support

WAYS = {
    "-O0": ["-O0", "-DSTATEMENTS_ONLY"],
    "-O2": ["-O2"],
    "-O3": ["-O3"],
    "-Os": ["-Os"],
    "-O2 -fPIC": ["-O2", "-fPIC"],
}
BY_FUNCTION = ["-ffunction-sections", "-fdata-sections"]  # compilers may put the functions of a unit in another order


def sections(path):
    """{section: its contents and relocations}; of what lists all functions, the size."""
    said = subprocess.run(["objdump", "-s", "-r", path], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^(?:Contents of section|RELOCATION RECORDS FOR) \[?(\S+?)\]?:$", said, flags=re.MULTILINE)
    found = {}
    for name, content in zip(parts[1::2], parts[2::2]):
        if name in (".eh_frame", ".group"):
            content = f"{len(content.splitlines())} lines"
        # Clang numbers the string literals, those that vanish included.
        found[name] = found.get(name, "") + re.sub(r"\.L\.str\.\d+", ".L.str", content)
    return found


def main():
    options = support.arguments()
    verdict = support.verdict()
    source = pathlib.Path(__file__).parent / "compiled_out.cpp"
    text = source.read_text()
    include = options.root / "include" / "thaw"

    if not shutil.which("objdump"):
        print("skipped: needs objdump")
        sys.exit(77)
    build = support.program(options)
    for way, flags in WAYS.items():
        units = {"plain": (source, [*flags, *BY_FUNCTION]), "marked": (source, [*flags, *BY_FUNCTION, "-DMARKED"])}
        objects, said = build.objects(units)
        if not objects:
            verdict.fail(f"{way}: does not compile:\n{said[:4000]}")
            break
        plain, marked = map(sections, objects)
        differ = sorted(name for name in plain.keys() | marked.keys() if plain.get(name) != marked.get(name))
        verdict.check(any(name.startswith(".text.") for name in plain), f"{way}: no code")
        verdict.check(not differ, f"{way}: markers change {', '.join(differ)}")
        for path in objects:
            path.unlink()

    macros = {name for path in include.rglob("*.hpp")
              for name in re.findall(r"^#define (THAW_\w+)\(", path.read_text(), re.MULTILINE)}
    for name in sorted(name for name in macros if not name.startswith("THAW_DETAIL_")):
        verdict.check(f"{name}(" in text, f"{source.name} does not use {name}")
    aliases = set(re.findall(r"^using (\w+) =", (include / "probe/containers.hpp").read_text(), re.MULTILINE))
    for name in sorted(aliases):
        held = re.search(rf"static_assert\(same<thaw::{name}\b", text)
        verdict.check(held, f"{source.name} does not hold thaw::{name} to a type")
    verdict.close(f"{len(WAYS)} object files, {len(aliases)} aliases")


main()
