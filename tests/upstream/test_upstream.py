"""The patch series and the packagings, tried on bcc's own tree.

USAGE: tests/run --upstream [BCC_CHECKOUT]      as root, or where sudo is

The environment has the path of a git checkout of bcc in BCC_CHECKOUT. It is
only read; all is done in clones.
"""

import collections
import glob
import gzip
import os
import re
import shutil
import subprocess

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
TOOLS = ["killsnoop", "madvsnoop", "countp", "protostats"]
CHECKOUT = os.environ["BCC_CHECKOUT"]
PYTHON = "/usr/bin/python3"     # the one that the distribution's BCC is for
SMOKE_SECONDS = 120


def run(*command, status=0, **popen):
    """What a command prints on both descriptors. Fails unless its status is as
    expected; None for any."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, **popen)
    assert status in (None, done.returncode), done.stdout
    return done.stdout


def git(tree, *args, **popen):
    return run("git", "-C", tree, "-c", "user.name=Nobody",
               "-c", "user.email=nobody@localhost", *args, **popen)


def make_series(checkout, outdir, **popen):
    return run(os.path.join(HERE, "make-series"), checkout, str(outdir),
               **popen)


def clone(folder):
    """A clone of the checkout's HEAD, with the folders that concern us only.
    The checkout may be a partial clone, which lacks files: let git know."""
    folder = str(folder)
    run("git", "clone", "-q", "--shared", "--no-checkout", CHECKOUT, folder)
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "remote.origin.promisor", "true")
    git(folder, "sparse-checkout", "set", "--no-cone", "/*", "!/src/",
        "!/libbpf-tools/")
    git(folder, "checkout", "-q", "--detach", "HEAD")
    return folder


def patches(series):
    """The patches by what their names have after the number."""
    return {os.path.basename(path)[5:]: path
            for path in sorted(glob.glob(os.path.join(series, "*.patch")))}


def read(*parts):
    with open(os.path.join(*parts), encoding="utf-8") as f:
        return f.read()


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """The folder with a series against the checkout."""
    folder = str(tmp_path_factory.mktemp("series"))
    make_series(CHECKOUT, folder)
    return folder


@pytest.fixture(scope="module")
def applied(series, tmp_path_factory):
    """A clone of the checkout, with the series applied."""
    tree = clone(tmp_path_factory.mktemp("applied"))
    git(tree, "am", "-q", *patches(series).values())
    return tree


@pytest.fixture(scope="module")
def installed(applied, tmp_path_factory):
    """A folder with /usr, into which bcc's own rules for tools/, man/ and
    examples have installed the tree with the series."""
    folder = str(tmp_path_factory.mktemp("installed"))
    project, build = os.path.join(folder, "project"), folder + "/build"
    os.mkdir(project)
    with open(os.path.join(project, "CMakeLists.txt"), "w") as f:
        f.write("cmake_minimum_required(VERSION 3.5)\nproject(parts NONE)\n")
        for part in ("tools", "man", "examples/tracing",
                     "examples/networking/xdp"):
            f.write('add_subdirectory("%s/%s" %s)\n' % (applied, part, part))
    run("cmake", "-S", project, "-B", build, "-DCMAKE_INSTALL_PREFIX=/usr")
    run("cmake", "--build", build)
    root = os.path.join(folder, "root")
    run("cmake", "--install", build, env=dict(os.environ, DESTDIR=root))
    return root


class TestSeries:

    def test_a_commit_each(self, applied, series):
        """The tools', in their order, then tests, then examples, if any."""
        subjects = git(applied, "log", "--reverse", "--format=%s",
                       "-%d" % len(patches(series))).splitlines()
        prefixes = [subject.split(":")[0] for subject in subjects]
        assert prefixes[:5] == ["tools/" + tool for tool in TOOLS] + [
            "tests/python"]
        has_examples = git(TOP, "ls-files", "examples/*.py")
        assert prefixes[5:] == (["examples"] if has_examples else [])

    @pytest.mark.parametrize("tool", TOOLS)
    def test_files_of_a_tool(self, applied, tool):
        """What a commit touches; what it brings is what this tree has."""
        commit = git(applied, "log", "-1", "--format=%H",
                     "--grep=^tools/%s: " % tool).strip()
        changes = dict(reversed(line.split("\t")) for line in git(
            applied, "show", "--format=", "--name-status",
            commit).splitlines())
        ours = ["tools/%s.py" % tool, "tools/%s_example.txt" % tool,
                "man/man8/%s.8" % tool]
        expected = {path: "M" if tool == "killsnoop" else "A" for path in ours}
        expected.update({"README.md": "M",
                         "tests/python/test_tools_smoke.py": "M"})
        if tool != "killsnoop":
            expected["snap/snapcraft.yaml"] = "M"
        assert changes == expected
        for path in ours:
            assert read(applied, path).split("\n", 1)[1] == read(
                TOP, path).split("\n", 1)[1]
        assert os.access(os.path.join(applied, ours[0]), os.X_OK)

    @pytest.mark.parametrize("tool", TOOLS)
    def test_places(self, applied, tool):
        """Between its neighbors, where the lists are alphabetical."""
        for path, entry in (
                ("README.md", r"^- tools/\[([\w-]+)\]"),
                ("tests/python/test_tools_smoke.py", r"^    def test_(\w+)\("),
                ("snap/snapcraft.yaml", r"^    ([\w-]+):\n        command:")):
            names = re.findall(entry, read(applied, path), re.M)
            assert names.count(tool) == 1
            place = names.index(tool)
            near = [name for name in names[max(place - 2, 0):place + 3]]
            assert near[near.index(tool) - 1] < tool < near[
                near.index(tool) + 1], path

    @pytest.mark.parametrize("tool", TOOLS)
    def test_applies_alone(self, series, applied, tmp_path, tool):
        tree = clone(tmp_path)
        git(tree, "am", "-q", os.path.join(series, "pr", tool + ".patch"))
        commit = "--grep=^tools/%s: " % tool
        numstat = ["log", "-1", "--numstat", "--format=%an %ad %B", commit]
        assert git(tree, *numstat) == git(applied, *numstat)

    @pytest.mark.parametrize("tool", TOOLS)
    def test_message(self, applied, tool):
        message = git(applied, "log", "-1", "--format=%B",
                      "--grep=^tools/%s: " % tool)
        subject, _, *body = message.splitlines()
        assert len(subject) <= 72
        assert [line for line in body       # tables may be wider
                if len(line) > (80 if line.startswith("  ") else 72)] == []
        for part in ("Production use:", "Existing tools", "Measured on Linux ",
                     "Why this way:"):
            assert part in message
        assert re.search(r"^  %s  +[\d,]+ " % tool, message, re.M)
        assert not re.search(r"[{}]", message)

    @pytest.mark.parametrize("tool", TOOLS)
    def test_pull_request(self, series, tool):
        """By bcc's template, where the checkout has one."""
        text = read(series, "pr", tool + ".md")
        template = git(CHECKOUT, "show",
                       "HEAD:.github/PULL_REQUEST_TEMPLATE.md", status=None)
        headings = re.findall(r"^## .*$", template, re.M) or [
            "## Description", "## Why this approach"]
        assert re.findall(r"^## .*$", text, re.M) == headings
        items = re.findall(r"^- \[ \] (.*)$", template, re.M)
        assert re.findall(r"^- \[x\] (.*)$", text, re.M) == items
        assert "<!--" not in text

    def test_second_run_is_the_same(self, series, tmp_path):
        """Byte for byte, whatever the environment and git's settings; the
        checkout stays as it is."""
        def state():
            return [git(CHECKOUT, "--no-optional-locks", *args) for args in (
                ["status", "--porcelain"], ["for-each-ref"],
                ["rev-parse", "HEAD"], ["count-objects", "-v"])]

        before = state()
        environment = dict(os.environ, TZ="Asia/Tokyo", COLUMNS="40",
                           GIT_AUTHOR_NAME="Other")
        settings = ["format.signature=other", "format.signOff=true",
                    "diff.noprefix=true", "diff.context=7", "core.abbrev=5"]
        environment["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, setting in enumerate(settings):
            name, value = setting.split("=")
            environment["GIT_CONFIG_KEY_%d" % number] = name
            environment["GIT_CONFIG_VALUE_%d" % number] = value
        outdir = tmp_path / "second"
        for _ in range(2):      # an older series is overwritten
            make_series(CHECKOUT, outdir, env=environment)
        assert run("diff", "-r", series, str(outdir)) == ""
        assert state() == before


# A change of a tree that has been understood, and what is said of it.
Misfit = collections.namedtuple("Misfit", "change said")


def without(path, pattern):
    def change(tree):
        text = read(tree, path)
        shorter = re.sub(pattern, "", text, flags=re.M)
        assert shorter != text
        with open(os.path.join(tree, path), "w") as f:
            f.write(shorter)
        git(tree, "commit", "-qam", "change")
    return change


def dirty(tree):
    with open(os.path.join(tree, "README.md"), "a") as f:
        f.write("\n")


def another_tool(tree):
    with open(os.path.join(tree, "tools/madvsnoop.py"), "w") as f:
        f.write("# of somebody else\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "change")


def no_repository(tree):
    shutil.rmtree(os.path.join(tree, ".git"))


class TestRefusals:
    """One clear line, status 1, and no series."""

    MISFITS = {
        "no repository": Misfit(no_repository, "not a git repository"),
        "changed": Misfit(dirty, "changes that are not committed"),
        "no tools listed": Misfit(without(
            "README.md", r"^- tools/.*\n"), "no list of tools"),
        "another README": Misfit(without(
            "README.md", "BPF Compiler Collection"), "no checkout of bcc"),
        "no smoke tests": Misfit(without(
            "tests/python/test_tools_smoke.py", r"^    def .*\n"),
            "found no tests"),
        "another madvsnoop": Misfit(another_tool, "madvsnoop.py already"),
        "no apps": Misfit(without(
            "snap/snapcraft.yaml", r"^        command: .*\n"),
            "found no apps")}

    @pytest.fixture
    def tree(self, tmp_path):
        """A repository of what make-series looks at in the checkout."""
        tree = str(tmp_path / "tree")
        for path in ("README.md", "snap/snapcraft.yaml", "tools/killsnoop.py",
                     "tools/killsnoop_example.txt", "man/man8/killsnoop.8",
                     "tests/python/test_tools_smoke.py"):
            os.makedirs(os.path.dirname(os.path.join(tree, path)),
                        exist_ok=True)
            with open(os.path.join(tree, path), "w") as f:
                f.write(git(CHECKOUT, "show", "HEAD:" + path))
        run("git", "init", "-q", tree)
        git(tree, "add", "-A")
        git(tree, "commit", "-qm", "what bcc has")
        return tree

    def refused(self, checkout, outdir, said):
        line = make_series(checkout, outdir, status=1)
        assert line.startswith("make-series: ") and said in line
        assert line.count("\n") == 1
        assert not os.path.exists(str(outdir)) or not glob.glob(
            os.path.join(str(outdir), "*.patch"))

    def test_the_tree_is_understood_before(self, tree, tmp_path):
        make_series(tree, tmp_path / "out")

    @pytest.mark.parametrize("misfit", sorted(MISFITS))
    def test_tree(self, tree, tmp_path, misfit):
        self.MISFITS[misfit].change(tree)
        self.refused(tree, tmp_path / "out", self.MISFITS[misfit].said)

    def test_applied_already(self, applied, tmp_path):
        self.refused(applied, tmp_path / "out", "already")

    def test_other_repository(self, tmp_path):
        tree = str(tmp_path / "other")
        run("git", "init", "-q", tree)
        git(tree, "commit", "-q", "--allow-empty", "-m", "nothing")
        self.refused(tree, tmp_path / "out", "no checkout of bcc")

    def test_no_folder(self, tmp_path):
        self.refused(str(tmp_path / "none"), tmp_path / "out", "no folder")

    def test_below_the_top(self, tree, tmp_path):
        self.refused(os.path.join(tree, "tools"), tmp_path / "out", "top of")

    def test_outdir_in_the_checkout(self, tree):
        self.refused(tree, os.path.join(tree, "out"), "inside of")
        assert git(tree, "status", "--porcelain") == ""

    def test_outdir_with_other_files(self, tree, tmp_path):
        (tmp_path / "letter.txt").write_text("dear all")
        self.refused(tree, tmp_path, "other files")

    def test_usage(self):
        line = run(os.path.join(HERE, "make-series"), CHECKOUT, status=2)
        assert "OUTDIR" in line and "Traceback" not in line


class TestInTheTree:

    @pytest.mark.parametrize("tool", TOOLS)
    def test_smoke(self, applied, tool):
        """As CTest runs bcc's smoke tests, but for this tool's alone. bcc has
        a container for that, with the tree in /bcc."""
        script = read(applied, "tools/%s.py" % tool)
        python = script.split("\n", 1)[0][2:]
        if run(*python.split(), "-c", "import bcc", status=None):
            pytest.skip("the tree's tools start with %s, which has no bcc" %
                        python)
        said = run(PYTHON, "-c", "import unittest, test_tools_smoke as smoke\n"
                   "smoke.TOOLS_DIR = '../../tools/'; unittest.main(smoke)",
                   "-v", "SmokeTests.test_" + tool,
                   cwd=os.path.join(applied, "tests/python"),
                   timeout=SMOKE_SECONDS)
        skipped = re.search(r"skipped '(.*)'", said)
        if skipped:
            pytest.skip("bcc's smoke test %s" % skipped[1])
        assert re.search(r"^Ran 1 test in ", said, re.M)
        assert re.search(r"^OK$", said, re.M)

    def test_smoke_of_others(self, applied):
        names = re.findall(r"^    def test_(\w+)\(self",
                           read(applied, "tests/python/test_tools_smoke.py"),
                           re.M)
        pytest.skip("not run, being of other tools: " + ", ".join(
            sorted(set(names) - set(TOOLS))))

    def test_style_script(self, applied):
        """It checks tools/ and examples/, and finds something in others."""
        assert shutil.which("pycodestyle")
        said = run("scripts/py-style-check.sh", cwd=applied, status=None)
        assert "No such file" not in said
        brought = git(applied, "diff", "--name-only", "--diff-filter=AM",
                      git(CHECKOUT, "rev-parse", "HEAD").strip(), "HEAD",
                      "--", "tools/*.py", "examples/*.py").split()
        assert len(brought) >= len(TOOLS)
        assert [line for line in said.splitlines() for path in brought
                if re.match(r"(\./)?%s\b" % re.escape(path), line)] == []

    def test_shebang_is_one_of_the_tree(self, applied):
        lines = {name: read(applied, "tools", name).split("\n", 1)[0]
                 for name in os.listdir(os.path.join(applied, "tools"))
                 if name.endswith(".py")}
        ours = {lines.pop(tool + ".py") for tool in TOOLS}
        assert len(ours) == 1 and ours <= set(lines.values())

    def test_copying_replaces_only_killsnoop(self, tmp_path):
        tree = clone(tmp_path)
        for path in git(TOP, "ls-files", "tools", "man", "tests",
                        "examples").splitlines():
            target = os.path.join(tree, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(os.path.join(TOP, path), target)
        status = git(tree, "status", "--porcelain", "-uall").splitlines()
        changed = [line for line in status if not line.startswith("?? ")]
        assert sorted(changed) == [" M man/man8/killsnoop.8",
                                   " M tools/killsnoop.py",
                                   " M tools/killsnoop_example.txt"]
        assert len(status) > len(changed)


class TestInstalled:
    """By bcc's rules, then under the names of distributions."""

    SCRIPT = "usr/share/bcc/tools/%s"
    EXAMPLE = "usr/share/bcc/tools/doc/%s_example.txt"
    PAGE = "usr/share/bcc/man/man8/%s.8.gz"

    @pytest.mark.parametrize("tool", TOOLS)
    def test_by_cmake(self, installed, tool):
        assert os.access(os.path.join(installed, self.SCRIPT % tool), os.X_OK)
        assert read(installed, self.EXAMPLE % tool) == read(
            TOP, "tools/%s_example.txt" % tool)
        with gzip.open(os.path.join(installed, self.PAGE % tool), "rt") as f:
            assert f.read() == read(TOP, "man/man8/%s.8" % tool)

    def test_examples_by_cmake(self, installed):
        paths = [path for path in git(TOP, "ls-files").splitlines()
                 if re.match("examples/.*[.]py$", path)]
        if not paths:
            pytest.skip("there are no examples here")
        for path in paths:
            assert os.access(os.path.join(installed, "usr/share/bcc", path),
                             os.X_OK)

    def package(self, installed, tool, folder, files, shebang):
        """Lay the tool's files out as a distribution does, with the script's
        first line as it has it. files maps from here to there."""
        for here, there in files.items():
            target = os.path.join(str(folder), there)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(os.path.join(installed, here % tool), target)
            if here == self.SCRIPT:
                first, rest = read(target).split("\n", 1)
                with open(target, "w") as f:
                    f.write(shebang(first) + "\n" + rest)

    def check_package(self, folder, tool, script, page):
        """The script runs under its name, the page reads under its."""
        path = os.path.join(str(folder), script)
        name = os.path.basename(script)
        said = run(path, "-h")
        assert said.startswith("usage: %s [-h]" % name)
        assert run(path, "--no-such-option", status=2).splitlines()[
            -1].startswith(name + ": error: ")
        pages = os.path.join(str(folder), "usr/share/man")
        environment = dict(os.environ, MANWIDTH="80", LC_ALL="C.UTF-8",
                           MANPAGER="cat", MAN_KEEP_FORMATTING="")
        known_as = os.path.basename(page)[:-len(".8.gz")]
        said = re.sub(".\b", "", run("man", "--warnings", "-M", pages,
                                     known_as, env=environment))
        assert re.search(r"^NAME\n +%s +- +\S" % tool, said, re.M)
        assert re.search(r"^SYNOPSIS\n +%s +\[-h\]" % tool, said, re.M)
        assert said == re.sub(".\b", "", run(
            "man", "--warnings", "-l", os.path.join(TOP, "man/man8",
                                                    tool + ".8"),
            env=environment))
        assert re.search(r': "%s - .*"$' % tool, run(
            "lexgrog", os.path.join(str(folder), page)).strip())
        run("mandb", "-q", "-c", pages)
        for word in (known_as, tool):
            assert re.search(r"^(bcc-)?%s(-bpfcc)? \(8\) +- \S" % tool, run(
                "man", "-M", pages, "-f", word, env=environment), re.M)

    @pytest.mark.parametrize("tool", TOOLS)
    def test_as_debian(self, installed, tmp_path, tool):
        """Names and first line as the distribution's package has them for
        killsnoop. It changes nothing else in script and page."""
        listed = run("dpkg-query", "-L", "bpfcc-tools", status=None)
        theirs = {kind: re.findall(r"^/(.*\bkillsnoop%s)$" % ending, listed,
                                   re.M)
                  for kind, ending in ((self.SCRIPT, "-bpfcc"),
                                       (self.PAGE, "-bpfcc[.]8[.]gz"),
                                       (self.EXAMPLE, "_example[.]txt"))}
        if not all(theirs.values()):
            pytest.skip("bpfcc-tools is not installed")
        first = read("/", theirs[self.SCRIPT][0]).split("\n", 1)[0]
        files = {kind: paths[0].replace("killsnoop", tool)
                 for kind, paths in theirs.items()}
        assert files[self.SCRIPT] == "usr/sbin/%s-bpfcc" % tool
        self.package(installed, tool, tmp_path, files, lambda line: first)
        self.check_package(tmp_path, tool, files[self.SCRIPT],
                           files[self.PAGE])

    @pytest.mark.parametrize("tool", TOOLS)
    def test_as_fedora(self, installed, tmp_path, tool):
        """As Fedora's bcc.spec: the interpreter alone is put in, for a line
        that has nothing after python and its version; pages get a prefix."""
        def shebang(line):
            assert re.match(r"#!/usr/bin/(env )?python[\d.]*$", line)
            return "#!" + PYTHON

        files = {self.SCRIPT: "usr/share/bcc/tools/" + tool,
                 self.EXAMPLE: "usr/share/bcc/tools/doc/%s_example.txt" % tool,
                 self.PAGE: "usr/share/man/man8/bcc-%s.8.gz" % tool}
        self.package(installed, tool, tmp_path, files, shebang)
        self.check_package(tmp_path, tool, files[self.SCRIPT],
                           files[self.PAGE])

    @pytest.mark.parametrize("tool", TOOLS)
    def test_as_snap(self, applied, tmp_path, tool):
        """bcc's snap rewrites the first line with sed, before it builds."""
        script = re.search(r"sed -i '(s\|.*?\|.*?\|)'",
                           read(applied, "snap/snapcraft.yaml"))[1]
        said = run("sed", script, os.path.join(applied, "tools", tool + ".py"))
        assert said.startswith("#!/usr/bin/env python3\n")
