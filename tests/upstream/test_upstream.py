"""Test the patches on a git checkout of bcc.

USAGE: tests/run --upstream BCC_CHECKOUT      as root, or where sudo is
"""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
MAKE_SERIES = HERE / "make-series"
CHECKOUT = os.environ["BCC_CHECKOUT"]
TOOLS, LISTS = [runpy.run_path(str(MAKE_SERIES))[name]
                for name in ("TOOLS", "LISTS")]
os.environ.setdefault("EMAIL", "nobody@localhost")     # of commits


def run(*command, status=0, **popen):
    """Return what a command prints. Fail if its status is another."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, encoding="utf-8", **popen)
    assert status in (None, done.returncode), done.stdout
    return done.stdout


def git(tree, *args):
    return run("git", "-C", tree, *args)


def text(path):
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Return a clone of the checkout with the series applied."""
    tree = tmp_path_factory.mktemp("bcc")
    git(tree, "clone", "-qsn", CHECKOUT, ".")
    # src and libbpf-tools are not needed, and can lack files.
    git(tree, "config", "extensions.partialClone", "origin")
    git(tree, "config", "remote.origin.promisor", "true")
    git(tree, "sparse-checkout", "set", "--no-cone", "/*", "!/src/",
        "!/libbpf-tools/")
    git(tree, "checkout", "-q", "-B", "series")
    git(tree, "tag", "base")
    out = tmp_path_factory.mktemp("out")
    git(tree, "am", "-q", *run(MAKE_SERIES, CHECKOUT, out).split())
    assert len(git(tree, "log", "--format=%H", "base..").split()) == len(TOOLS)
    return tree


@pytest.fixture
def base(series):
    """Return the clone without the series."""
    git(series, "checkout", "-q", "--detach", "base")
    yield series
    git(series, "checkout", "-qf", "series")


@pytest.mark.parametrize("tool", TOOLS)
def test_patch(base, tmp_path, tool):
    """A patch applies alone: our text and files, entries in their places."""
    git(base, "am", "-q", run(MAKE_SERIES, CHECKOUT, tmp_path, tool).strip())
    message = git(base, "log", "-1", "--format=%B")
    assert message.split() == text(HERE / "messages" / (tool + ".txt")).split()
    assert not re.search(r"^[^ \n].{72}", message, re.M)
    ours = ["tools/%s.py" % tool, "tools/%s_example.txt" % tool,
            "man/man8/%s.8" % tool]
    for path in ours:
        assert text(base / path).split("\n")[1:] == text(
            TOP / path).split("\n")[1:]
    assert os.access(str(base / ours[0]), os.X_OK)
    new = tool != "killsnoop"
    changed = git(base, "show", "--format=", "--name-status").split()
    assert dict(zip(changed[1::2], changed[::2])) == dict(
        {path: "M" for path in list(LISTS)[:2 + new]},
        **{path: "A" if new else "M" for path in ours})
    for path, (_, item, _) in LISTS.items():
        names = re.findall(item, text(base / path), re.M)
        assert names.count(tool) == 1
        assert tool < names[names.index(tool) + 1]


def refused(said, checkout, outdir):
    """Check that there is one line, status 1 and no patch."""
    line = run(MAKE_SERIES, checkout, outdir, status=1)
    assert line.startswith("make-series: ") and line.count("\n") == 1
    assert said in line and not list(outdir.glob("*.patch"))


@pytest.mark.parametrize("path, lost", [
    ("README.md", "Memory and Process"), ("snap/snapcraft.yaml", "command:"),
    ("tests/python/test_tools_smoke.py", "    def test_")])
def test_refusal_without_list(base, tmp_path, path, lost):
    (base / path).write_text(text(base / path).replace(lost, ""), "utf-8")
    git(base, "commit", "-qam", "list lost")
    refused("has no list for killsnoop", base, tmp_path)


def test_other_refusals(series, tmp_path):
    refused("has this killsnoop already", series, tmp_path)
    refused("does not exist", tmp_path, tmp_path)
    refused("is not empty", CHECKOUT, HERE)


@pytest.mark.parametrize("tool", TOOLS)
def test_smoke(series, tool):
    said = run(sys.executable, "-c", "import unittest, test_tools_smoke\n"
               "test_tools_smoke.TOOLS_DIR = '%s ../../tools/'\n"
               "unittest.main(test_tools_smoke)" % sys.executable, "-v",
               "SmokeTests.test_" + tool, cwd=series / "tests/python")
    skipped = re.search("skipped '(.*)'", said)
    if skipped:
        pytest.skip(skipped[1])
    assert re.search(r"^Ran 1 test in .*\n\nOK$", said, re.M)


def test_style(series):
    """bcc's script, which finds something in others, finds nothing in ours."""
    said = run("scripts/py-style-check.sh", cwd=series, status=None)
    assert re.search(r"^tools/\w+\.py:\d", said, re.M)
    assert not re.search(r"tools/(%s)\.py" % "|".join(TOOLS), said)


def test_install(series, tmp_path):
    """bcc's CMake rules install all; scripts know the names of packages."""
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.5)\nproject(parts NONE)\n"
        "add_subdirectory({0}/tools tools)\n"
        "add_subdirectory({0}/man man)\n".format(series))
    run("cmake", "-DCMAKE_INSTALL_PREFIX=/usr", ".", cwd=tmp_path)
    run("make", "install", "DESTDIR=" + str(tmp_path), cwd=tmp_path)
    root = tmp_path / "usr/share/bcc"
    for tool in TOOLS:
        assert run("zcat", root / "man/man8" / (tool + ".8.gz")) == text(
            TOP / "man/man8" / (tool + ".8"))
        assert (root / "tools/doc" / (tool + "_example.txt")).exists()
        script = root / (tool + "-bpfcc")       # as on Debian
        (root / "tools" / tool).rename(script)
        assert run(sys.executable, script, "-h").startswith(
            "usage: %s-bpfcc " % tool)
