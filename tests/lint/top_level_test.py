"""The tree is what DESIGN.md's house says: top level, run scripts, listed tests, no tabs, no paths of a developer's machine,
macros with the one prefix, one version."""

import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support

TOP_LEVEL = {"include", "tests", "bench", "examples", "meson.build", "meson_options.txt", "README.md", "LICENSE"}
RUN_SCRIPTS = ["tests/run", "examples/run", "bench/run", ".ci/run"]
UNLISTED = ("tests/compile_fail/", "tests/fuzz/corpus/")  # found by their place
DATA = ("tests/golden/", "examples/events/")  # files that are compared or parsed byte by byte

MACHINE_PATH = re.compile(r"(?<![\w.$})/*-])/(?:home|root|work|Users)/\w")
FIXED_TEMPORARY = re.compile(r"(?<![\w.$}-])/tmp/\w")


def text_of(path):
    """The file's text, or None for a binary one."""
    content = path.read_bytes()
    if b"\0" in content:
        return None
    return content.decode(errors="replace")


def lines_matching(pattern, text):
    return [number for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


def listed(root, file):
    """Whether the build knows a source: by its file name, or for <folder>/<name>_test.* by <name> in the array called after
    the folder (in bench/ and examples/: in any array), or because a Python test beside it compiles it."""
    top, *_, name = file.split("/")
    build = re.sub(r"#.*", "", "".join(path.read_text() for path in (root / top).rglob("meson.build")))
    arrays = {array: set(re.findall(r"'([^']*)'", names))
              for array, names in re.findall(r"^(\w+) = \[(.*?)\]", build, re.MULTILINE | re.DOTALL)}
    folder = file.split("/")[-2]
    stem = re.sub(r"(_test|_bench)?\.(cpp|py)$", "", name)
    if top != "tests":
        by_name = any(stem in names for names in arrays.values())
    else:
        by_name = re.search(r"_test\.(cpp|py)$", name) and stem in arrays.get(folder, ())
    if by_name or re.search(rf"['/]{re.escape(name)}'", build):
        return True
    return any(re.search(rf"[\"/]{re.escape(name)}\"", path.read_text()) for path in (root / file).parent.glob("*_test.py"))


def main():
    options = support.arguments()
    verdict = support.verdict()
    root = options.root
    files = support.tree_files(root)

    for name in sorted({file.split("/")[0] for file in files}):
        verdict.check(name in TOP_LEVEL or name.startswith("."), f"{name}: the top level does not hold it (see DESIGN.md)")
    for name in ("include", "tests", "bench", "examples", "meson.build", "LICENSE"):
        verdict.check((root / name).exists(), f"{name}: missing")
    for script in RUN_SCRIPTS:
        verdict.check(os.access(root / script, os.X_OK), f"{script}: missing or not executable")

    for file in files:
        if file.startswith(DATA):
            continue
        text = text_of(root / file)
        if text is None:
            continue
        for number in lines_matching(re.compile("\t"), text):
            verdict.fail(f"{file}:{number}: a tab")
        for number in lines_matching(MACHINE_PATH, text):
            verdict.fail(f"{file}:{number}: a path of one machine")
        if file.startswith(("tests/", "bench/", "examples/")):
            for number in lines_matching(FIXED_TEMPORARY, text):
                verdict.fail(f"{file}:{number}: a fixed temporary path (TMPDIR is to be honoured)")
        if file.startswith("include/"):
            for number, line in enumerate(text.splitlines(), 1):
                macro = re.match(r"\s*#\s*(?:define|undef)\s+(\w+)", line)
                verdict.check(not macro or macro[1].startswith("THAW_"), f"{file}:{number}: the macro {macro and macro[1]} "
                                                                         f"does not start with THAW_")

    for file in files:
        if file.startswith(("tests/", "bench/", "examples/")) and not file.startswith((*DATA, *UNLISTED)):
            if file.endswith(".cpp") or file.endswith("_test.py"):
                verdict.check(listed(root, file), f"{file}: no meson.build lists it")

    version = re.search(r"version: '(\d+\.\d+\.\d+)'", (root / "meson.build").read_text())
    config = root / "include/thaw/core/config.hpp"
    if config.exists():
        parts = [re.search(rf"#define THAW_VERSION_{part} (\d+)", config.read_text())
                 for part in ("MAJOR", "MINOR", "PATCH")]
        said = ".".join(part[1] for part in parts if part)
        verdict.check(version and version[1] == said,
                      f"meson.build says version {version and version[1]}, config.hpp {said}")
    verdict.close(f"{len(files)} files")


main()
