"""Executing a marker takes as many instructions as tests/golden/instructions/<compiler>.txt says.

instruction_counts.cpp single-steps functions of one marker each. A row counts what is executed of the function and of what
it calls, divided by the call of the body into `enter` and `leave`, without that call, and without what lies outside of the
program: the C and C++ libraries, the kernel's page. Rounds differ, since a timer tick or a new maximum takes another path:
the row is the path that most rounds took. `cmp` are comparisons (cmp, test), `jcc` conditional jumps, taken or not, `load`
and `store` accesses to memory with what push and pop access; an addition to memory is both. The rows without a marker are
what of it belongs to the function. The second table is the size of the functions' code, hot and cold, beyond that without
the marker.

The figures belong to one version of a compiler. It must reproduce them exactly; another version may take at most 15 %, and 3
instructions, more in total.

    instruction_counts_test.py [--update] [--compiler CXX]     without --compiler: g++ and clang++-19, those that are there
"""

import collections
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support

COMPILERS = ["g++", "clang++-19"]
FLAGS = ["-std=c++20", "-O2", "-pthread", "-no-pie"]
MODES = {"idle": "not started", "disabled": "disabled", "structure": "timing = none", "every": "timing = all",
         "adaptive": "adaptive", "defaults": "all defaults"}
COLUMNS = ("total", "cmp", "jcc", "load", "store")
# A function with a marker, and the one without.
SIZES = {"in_scope": "bare", "in_wait": "bare", "in_handler": "bare", "allocate": "bare_allocate",
         "deallocate": "bare_deallocate"}
SKIPPED = 77


# --- instructions ----------------------------------------------------------------------------------------------------


def compares(mnemonic):
    return re.fullmatch("(cmp|test)[bwlq]?", mnemonic) is not None


def accesses(mnemonic, operands):
    """(loads, stores) of an instruction in AT&T syntax."""
    if mnemonic.startswith("push"):
        return (1 if "(" in operands else 0), 1
    if mnemonic.startswith("pop"):
        return 1, (1 if "(" in operands else 0)
    if mnemonic.startswith(("lea", "nop", "j", "prefetch", "endbr", "ud2")) and "*" not in operands:
        return 0, 0
    parts = re.findall(r"(?:[^,(]|\([^)]*\))+", operands)
    in_memory = [bool(re.search(r"\(|%[fg]s:|^\s*\*?-?0x", part)) for part in parts]
    if not any(in_memory) or (mnemonic.startswith("call") and "*" not in operands):
        return 0, 0
    if len(parts) == 1:  # of one operand: setcc stores, inc and its kin do both, the rest loads
        both = mnemonic.startswith(("inc", "dec", "neg", "not", "sh", "sa", "ro"))
        return (0 if mnemonic.startswith("set") else 1), (1 if both or mnemonic.startswith("set") else 0)
    if not in_memory[-1] or compares(mnemonic) or mnemonic.startswith(("ucomi", "comi")):
        return 1, 0
    return (0 if mnemonic.startswith(("mov", "vmov", "stos")) else 1), 1


def disassembled(program):
    """{address: (function, mnemonic, operands)} of the program's own code."""
    said = subprocess.run(["objdump", "-d", "--no-show-raw-insn", "-j", ".text", program], capture_output=True, text=True,
                          check=True).stdout
    code, function = {}, ""
    for line in said.splitlines():
        if label := re.fullmatch(r"[0-9a-f]+ <(.+)>:", line):
            function = label[1]
        elif found := re.match(r" *([0-9a-f]+):\t(.*)", line):
            words = re.sub(r"\s*[#<].*", "", found[2]).split()
            while len(words) > 1 and words[0] in ("lock", "rep", "repz", "repnz", "bnd", "notrack", "data16"):
                words.pop(0)
            code[int(found[1], 16)] = (function, words[0] if words else "", " ".join(words[1:]))
    return code


def counted(path):
    figures = dict.fromkeys(COLUMNS, 0)
    for _, mnemonic, operands in path:
        loads, stores = accesses(mnemonic, operands)
        figures["total"] += 1
        figures["cmp"] += compares(mnemonic)
        figures["jcc"] += mnemonic.startswith("j") and not mnemonic.startswith("jmp")
        figures["load"] += loads
        figures["store"] += stores
    return figures


def pieces(trace, function, code):
    """What is executed of the function and below it: {"enter": instructions, "leave": instructions}, or {"": instructions}
    where it has no body."""
    stepped = [(address, code[address]) for address in trace if address in code]
    begin = next(i for i, (_, (name, *_)) in enumerate(stepped) if name == function)
    caller = stepped[0][1][0]
    path = [instruction for _, instruction in stepped[begin:] if instruction[0] != caller]
    inside = [i for i, (name, *_) in enumerate(path) if name == "body"]
    if not inside:
        return {"": path}
    return {"enter": path[:inside[0] - 1], "leave": path[inside[-1] + 1:]}  # - 1: the call


# --- one compiler ----------------------------------------------------------------------------------------------------


def sizes(program):
    """{function: bytes of its code}, what was split off as cold included."""
    said = subprocess.run(["nm", "-S", "--defined-only", program], capture_output=True, text=True, check=True).stdout
    found = collections.Counter()
    for line in said.splitlines():
        words = line.split()
        if len(words) == 4 and words[2] in "tTwW":
            found[words[3].split(".")[0]] += int(words[1], 16)
    return found


def measure(command, options, folder):
    """The two tables, {name: {column: figure}}, or a text that says why there are none."""
    program = folder / "instruction_counts"
    source = pathlib.Path(__file__).parent / "instruction_counts.cpp"
    built = subprocess.run([*command, *FLAGS, f"-I{options.root / 'include'}", source, "-o", program], capture_output=True,
                           text=True)
    if built.returncode != 0:
        return f"does not compile:\n{built.stderr}"
    code = disassembled(program)
    result = {}
    for mode, said in MODES.items():
        ran = subprocess.run([program, mode], capture_output=True, text=True, timeout=120)
        if ran.returncode != 0:
            return f"{mode}: ends with {ran.returncode}: {ran.stderr}"
        rounds = collections.defaultdict(collections.Counter)
        for line in ran.stdout.splitlines():
            name, *addresses = line.split()
            rounds[name][tuple(int(address, 16) for address in addresses)] += 1
        for name, traces in rounds.items():
            trace, times = traces.most_common(1)[0]
            if len(trace) <= 2:
                return "nothing can be single-stepped here"
            if times * 4 < sum(traces.values()):
                return f"{mode}: {name}: no path is taken by a quarter of the rounds"
            for piece, path in pieces(trace, name, code).items():
                result[row_name("no marker" if name.startswith("bare") else said, name, piece)] = counted(path)
    bytes_of = sizes(program)
    for function, bare in SIZES.items():
        result[row_name("code", function)] = {"bytes": bytes_of[function] - bytes_of[bare]}
    return result


def row_name(title, function, piece=""):
    what = re.sub("^(in|bare)(_|$)", "", function).replace("_", " ")
    return f"{title}: {' '.join(word for word in (what, piece) if word)}"


def text_of(version, result):
    width = max(map(len, result)) + 1
    lines = [f"# {version}", f"# {' '.join(FLAGS)}; made by tests/lint/instruction_counts_test.py --update"]
    columns = None
    for name, figures in result.items():
        if columns != list(figures):
            columns = list(figures)
            lines += ["", "#".ljust(width) + "".join(column.rjust(7) for column in columns)]
        lines.append(name.ljust(width) + "".join(str(figure).rjust(7) for figure in figures.values()))
    return "\n".join(lines) + "\n"


def parsed(text):
    version, result, columns = text.splitlines()[0].removeprefix("# "), {}, []
    for line in text.splitlines()[2:]:
        if line.startswith("#"):
            columns = line[1:].split()
        elif line:
            words = line.rsplit(maxsplit=len(columns))
            result[words[0]] = dict(zip(columns, map(int, words[1:])))
    return version, result


def differences(golden, result, exact):
    for name in golden.keys() | result.keys():
        if name not in golden or name not in result:
            yield f"{name}: is " + ("not in the golden file" if name in result else "in the golden file, but not measured")
            continue
        was, now = golden[name], result[name]
        if exact and was != now:
            yield f"{name}: " + ", ".join(f"{column} {was.get(column)} -> {now[column]}" for column in now
                                          if was.get(column) != now[column])
        elif not exact and "total" in now and now["total"] > was["total"] * 1.15 + 3:
            yield f"{name}: {now['total']} instructions, more than 15 % above {was['total']}"


def main():
    update = "--update" in sys.argv
    given = "--compiler" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--update"]
    options = support.arguments()
    verdict = support.verdict()
    commands = [options.compiler] if given else [[name] for name in COMPILERS]
    if platform.machine() != "x86_64" or not shutil.which("objdump"):
        print("skipped: needs objdump, and x86-64, whose trap flag steps")
        sys.exit(SKIPPED)
    if " nonstop_tsc" not in pathlib.Path("/proc/cpuinfo").read_text():
        print("skipped: the processor's counter is not invariant, so that whatever reads the clock takes another path")
        sys.exit(SKIPPED)
    done = []
    for command in commands:
        if not shutil.which(command[0]):
            print(f"skipped: {command[0]} is not installed")
            continue
        version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        golden_file = options.root / "tests/golden/instructions" / f"{'clang++' if 'clang' in version else 'g++'}.txt"
        with tempfile.TemporaryDirectory(prefix="thaw-lint-") as folder:
            result = measure(command, options, pathlib.Path(folder))
        if isinstance(result, str) and "single-stepped" in result:
            print(f"skipped: {result}")
        elif isinstance(result, str):
            verdict.fail(f"{command[0]}: {result}")
        elif update:
            golden_file.write_text(text_of(version, result))
            done.append(f"{golden_file.name} is written")
        else:
            said, golden = parsed(golden_file.read_text())
            for message in sorted(differences(golden, result, said == version)):
                verdict.fail(f"{golden_file.name}: {message}")
            done.append(f"{version}: " + (f"{len(golden)} rows" if said == version else f"within 15 % of {said}"))
    if not done and not verdict.violations:
        sys.exit(SKIPPED)
    verdict.close("; ".join(done))


main()
