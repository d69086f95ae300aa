"""An executable and its shared objects carry the headers each: linked, loaded before and after thaw::start, with and without
hidden visibility, of one compiler or two, and unloaded again. There is one process, one tree, and names outlive their module."""

import itertools
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support

OTHER = ("clang++-19", "clang++-16", "clang++", "g++")


def main():
    options = support.arguments()
    verdict = support.verdict()
    here = pathlib.Path(__file__).parent
    build = support.program(options)
    visibilities = {"default": [], "hidden": ["-fvisibility=hidden", "-fvisibility-inlines-hidden"]}
    # Without unique symbols dlclose does unload a module that g++ has built.
    modules = dict(visibilities, unloadable=["-fvisibility=hidden"])
    if "clang" not in options.compiler[0]:
        modules["unloadable"].append("-fno-gnu-unique")
    units = {f"modules_{name}": (here / "modules.cpp", flags) for name, flags in visibilities.items()}
    units |= {f"module_{name}": (here / "module.cpp", ["-fPIC", *flags]) for name, flags in modules.items()}
    objects, said = build.objects(units)
    if not objects:
        verdict.fail(f"does not compile:\n{said}")
        verdict.close("shared objects")
    shared = {}
    for name in modules:
        for copy in ("one", "two"):
            shared[name, copy] = build.path / f"lib{name}_{copy}.so"
            linked = build.run(*build.command("-shared", build.path / f"module_{name}.o", "-o", shared[name, copy]))
            verdict.check(linked.returncode == 0, f"{name} {copy}: {linked.stderr}")
    # One of another compiler.
    first = options.compiler[0]
    other = next((c for c in OTHER if shutil.which(c) and ("clang" in c) != ("clang" in first)), None)
    if other and options.sanitize == "none":
        options_of_other = type(options)(**{**vars(options), "compiler": [other]})
        foreign = support.program(options_of_other)
        shared["foreign", "one"] = foreign.path / "libforeign.so"
        linked = foreign.run(*foreign.command("-shared", "-fPIC", here / "module.cpp",
                                              "-o", shared["foreign", "one"]))
        verdict.check(linked.returncode == 0, f"{other}: {linked.stderr}")

    def check(what, *command):
        ran = build.run(*command)
        verdict.check(ran.returncode == 0, f"{what} ends with {ran.returncode}:\n{ran.stdout}{ran.stderr}")

    for name in visibilities:
        for export in ("", "-rdynamic"):
            program = build.path / f"modules_{name}{export}"
            linked = build.run(*build.command(*([export] if export else []), build.path / f"modules_{name}.o", "-ldl", "-o", program))
            verdict.check(linked.returncode == 0, f"modules {name}: {linked.stderr}")
            for module, how in itertools.product(sorted(shared), ("before", "after", "reload", "starts", "first_call")):
                if module[1] == "two" or (export and how == "reload"):
                    continue
                check(f"{name} executable {export}, {module[0]} module, {how}", program, how, shared[module])
            check(f"{name} executable {export}, two modules", program, "after", shared["hidden", "one"], shared["default", "two"])
            check(f"{name} executable {export}, two modules", program, "before", shared["default", "one"], shared["hidden", "two"])
        for module in visibilities:
            program = build.path / f"linked_{name}_{module}"
            linked = build.run(*build.command("-Wl,--no-as-needed", build.path / f"modules_{name}.o", shared[module, "one"], "-ldl",
                                              f"-Wl,-rpath,{build.path}", "-o", program))
            verdict.check(linked.returncode == 0, f"modules linked {name}: {linked.stderr}")
            check(f"{name} executable with {module} module linked", program, "linked")
    verdict.close("shared objects")


main()
