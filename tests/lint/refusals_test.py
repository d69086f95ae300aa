"""What must not compile does not, and says why. Each tests/compile_fail/<rule>.cpp compiles as it stands, does not with
-DREFUSED, and carries a line `// refused: REGEX` that the compiler's message then matches."""

import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support


def main():
    options = support.arguments()
    verdict = support.verdict()
    folder = options.root / "tests" / "compile_fail"
    paths = sorted(folder.glob("*.cpp"))
    for path in paths:
        rule = path.stem
        command = [*options.compiler, "-std=c++20", "-fsyntax-only", f"-I{options.root / 'include'}", str(path)]
        twin = subprocess.run(command, capture_output=True, text=True)
        verdict.check(twin.returncode == 0, f"{rule}: the permitted form does not compile:\n{twin.stderr}")
        wanted = re.search(r"^// refused: (.+)$", path.read_text(), re.MULTILINE)
        if not wanted:
            verdict.fail(f"{rule}: has no line '// refused: REGEX'")
            continue
        refused = subprocess.run([*command, "-DREFUSED"], capture_output=True, text=True)
        verdict.check(refused.returncode != 0, f"{rule}: compiles with -DREFUSED")
        verdict.check(refused.returncode == 0 or re.search(wanted[1], refused.stderr),
                      f"{rule}: the message does not match '{wanted[1]}':\n{refused.stderr[:2000]}")
    verdict.close(f"{len(paths)} rules")


main()
