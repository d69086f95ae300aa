"""What the Python tests share. Each is started as

    <name>_test.py --root SOURCE --build BUILD --sanitize none|address,undefined|thread --compiler CXX [ARGUMENT...]

and passes if it ends with 0. By hand `<name>_test.py` alone is enough: the tree it lies in, g++, no sanitizer.
A test collects what is wrong in a `verdict`, so that one run names every violation.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("--sanitize", default="none")
    parser.add_argument("--compiler", nargs=argparse.REMAINDER, default=["g++"])
    options = parser.parse_args()
    options.root = options.root.resolve()
    return options


def headers(root):
    """All headers, as they are spelled in an #include, sorted."""
    include = root / "include"
    return sorted(str(path.relative_to(include)) for path in include.rglob("*.hpp"))


def tree_files(root):
    """The files of the source tree that are or could be committed, relative to it, sorted."""
    git = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True) if (root / ".git").exists() else None
    if git and git.returncode == 0:
        names = [os.fsdecode(name) for name in git.stdout.split(b"\0") if name]
        return sorted(name for name in set(names) if (root / name).is_file())
    found = []
    for folder, folders, names in os.walk(root):
        if folder == str(root):
            folders[:] = [name for name in folders if not name.startswith((".git", ".build", ".cache", "build"))]
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(found)


class verdict:
    """Violations found so far; `close()` prints them and ends the test."""

    def __init__(self):
        self.violations = []

    def fail(self, message):
        self.violations.append(message)

    def check(self, holds, message):
        if not holds:
            self.fail(message)

    def close(self, summary):
        for message in self.violations:
            print(message)
        print(f"{summary}: {len(self.violations)} violations" if self.violations else f"{summary}: ok")
        sys.exit(1 if self.violations else 0)


class program:
    """Builds and starts a small program from sources in a temporary folder, with `all_headers.hpp` at hand there."""

    def __init__(self, options):
        self.options = options
        self.folder = tempfile.TemporaryDirectory(prefix="thaw-link-")
        self.path = pathlib.Path(self.folder.name)
        names = headers(options.root)
        (self.path / "all_headers.hpp").write_text("".join(f"#include <{name}>\n" for name in names))
        standard = {line.split()[1] for name in names
                    for line in (options.root / "include" / name).read_text().splitlines()
                    if line.startswith("#include <") and not line.startswith("#include <thaw/")}
        # Some headers exist for one architecture or one library only.
        (self.path / "standard_headers.hpp").write_text("".join(
            f"#if __has_include({name})\n#include {name}\n#endif\n" for name in sorted(standard)))

    def command(self, *arguments):
        sanitize = [] if self.options.sanitize == "none" else [f"-fsanitize={self.options.sanitize}",
                                                               "-fno-sanitize-recover=all"]
        return [*self.options.compiler, "-std=c++20", "-O1", "-pthread", *sanitize,
                f"-I{self.options.root / 'include'}", f"-I{self.path}", *map(str, arguments)]

    def run(self, *command):
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=self.path)

    def objects(self, units):
        """Compiles {name: (source, flags)}, two at a time; returns the object files and what the compiler said, or None."""
        running, said = [], ""
        for name, (source, flags) in units.items():
            if len(running) >= 2:
                said += running.pop(0).communicate()[0]
            running.append(subprocess.Popen(self.command(*flags, "-c", source, "-o", self.path / f"{name}.o"),
                                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.path))
        for process in running:
            said += process.communicate()[0]
        objects = [self.path / f"{name}.o" for name in units]
        return (objects if all(path.exists() for path in objects) else None), said

    def link(self, objects, output="program"):
        return self.run(*self.command(*objects, "-o", self.path / output))
