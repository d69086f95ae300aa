"""`go tool pprof` reads what thaw::report::pprof writes: totals, functions, scopes, labels, differences; and it finds the names of
a stripped program in the one that was not.

    pprof_test.py PPROF_PROGRAM
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    for tool, package in (("go", "golang-go"), ("strip", "binutils")):
        if not shutil.which(tool):
            print(f"{tool} is missing (apt-get install --no-install-recommends {package})")
            sys.exit(77)
    verdict = support.verdict()
    with tempfile.TemporaryDirectory(prefix="thaw-pprof-") as scratch:
        folder = pathlib.Path(scratch)

        def run(*command, **environment):
            known = {name: value for name, value in os.environ.items() if not name.startswith("PPROF_")}
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace",
                                  env={**known, "HOME": scratch, "PPROF_TMPDIR": scratch, **environment})
            verdict.check(done.returncode == 0, f"{' '.join(map(str, command))} ends with {done.returncode}: {done.stderr}")
            return done.stdout

        def pprof(*arguments, **environment):
            return run("go", "tool", "pprof", *arguments, **environment)

        def facts(text):
            pairs = [line.split(" ", 1) for line in text.splitlines()]
            return {key: [value for other, value in pairs if other == key] for key, _ in pairs}

        def rows(text):
            """{function: (flat, cumulative)} of -top, in the unit that was asked for."""
            found = re.findall(r"^ *(-?[\d.]+)\S* +\S+% +\S+% +(-?[\d.]+)\S* +\S+%  (.+)$", text, re.MULTILINE)
            return {name.removesuffix(" (inline)"): (float(flat), float(cumulative)) for flat, cumulative, name in found}

        def expect(what, got, wanted):
            verdict.check(got == wanted, f"{what}: {got}, and not {wanted}")

        said = facts(run(program, folder))
        shop, scopes, later, empty = (folder / f"{name}.pb.gz" for name in ("shop", "scopes", "later", "empty"))
        expect("samples put in", said["samples"], ["100"])

        # The default sample type is cpu, and arguments are left out.
        top = pprof("-top", "-unit=ms", shop)
        verdict.check("Type: cpu\n" in top, f"-top shows another type:\n{top}")
        verdict.check("Duration: 60s, Total samples = 400ms" in top, f"-top has another duration or total:\n{top}")
        expect("-top", rows(top), {"shop::mix": (240, 240), "shop::apply_rules": (100, 340), "main": (40, 380),
                                   'hostile "name" <b>\ufffd': (20, 20), "checkout": (0, 20)})
        expect("-top of samples", rows(pprof("-top", "-sample_index=samples", shop))["shop::mix"], (60, 60))
        expect("-top with arguments", "shop::apply_rules(cart&)" in rows(pprof("-top", "-symbolize=demangle=full", shop)), True)
        expect("-top -cum of scopes", {name: row for name, row in rows(pprof("-top", "-cum", "-unit=ms", scopes)).items()
                                       if name in ("checkout", "price.rules", "main")},
               {"checkout": (0, 400), "price.rules": (0, 340), "main": (40, 380)})

        peek = pprof("-peek=shop::apply_rules", "-unit=ms", shop)
        verdict.check(re.search(r"240ms\s+[\d.]+% \|\s+shop::mix", peek) and re.search(r"340ms\s+100% \|\s+main", peek),
                      f"-peek shows no caller and callee:\n{peek}")

        traces = pprof("-traces", "-unit=ms", shop)
        for trace in (r"240ms\s+shop::mix\n\s+shop::apply_rules\n\s+main\n", r"handler:\s*checkout", r"scope:\s*checkout;price\.rules"):
            verdict.check(re.search(trace, traces), f"-traces has no {trace}:\n{traces}")
        focused = rows(pprof("-top", "-unit=ms", "-tagfocus=scope=checkout;price.rules", shop))
        expect("-tagfocus of a scope", sorted(focused), ["main", "shop::apply_rules", "shop::mix"])

        difference = rows(pprof("-top", "-unit=ms", f"-diff_base={shop}", later))
        expect("-diff_base", {name: row[0] for name, row in difference.items() if row[0] != 0}, {"shop::mix": 240})
        expect("two files together", rows(pprof("-top", "-unit=ms", shop, later))["shop::mix"], (720, 720))

        raw = pprof("-raw", shop)
        for part in ("PeriodType: cpu nanoseconds", "Period: 4000000", "Time: 2023-11-14", "samples/count cpu/nanoseconds[dflt]",
                     "1: 0x400000/0x500000/0x0 /opt/shop 0123456789abcdef [FN]", "version 1.4.2", "instance 7f3a09c2d1e4b586"):
            verdict.check(part in raw, f"-raw has no {part}:\n{raw}")
        verdict.check("samples/count" in pprof("-raw", empty), "an empty file is not read")

        # The places of a stripped program have no names of their own: the file that was not stripped has them. (This tool
        # reads no build ids and has to be told which file that is.)
        stripped = folder / "bin" / program.name
        stripped.parent.mkdir()
        run("strip", "-o", stripped, program)
        own = folder / "own.pb.gz"
        said = facts(run(stripped, folder))
        build_id = said.get("build_id", [""])[0]
        verdict.check(build_id, "the program has no build id")
        bare = rows(pprof("-top", "-sample_index=samples", own, PPROF_BINARY_PATH=str(folder)))
        verdict.check("shop_price" not in bare, f"a stripped program has names: {bare}")
        wanted = {"shop_price": (7, 7), "shop_checkout": (0, 7)}
        by_argument = rows(pprof("-top", "-sample_index=samples", program, own))
        expect("symbols of the program that was not stripped",
               {name: row for name, row in by_argument.items() if name in wanted}, wanted)

        # thaw finds the same names by itself, where there are some.
        said = facts(run(program, folder))
        expect("thaw's own names", said.get("function", [])[:3],
               ["shop_price", "shop_checkout", "main"])
        named = rows(pprof("-top", "-sample_index=samples", folder / "named.pb.gz"))
        expect("names that thaw found", {name: row for name, row in named.items() if name in wanted}, wanted)
    verdict.close("go tool pprof")


main()
