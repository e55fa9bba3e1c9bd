"""Style and documents of the tools and examples."""

import ast
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from common import PYTHON, TOP, run_command

ROOT = pathlib.Path(TOP)
README = (ROOT / "README.md").read_text()
SCRIPTS = sorted(ROOT.glob("tools/*.py"))
TOOLS = [path.stem for path in SCRIPTS]
EXAMPLES = sorted(ROOT.glob("examples/**/*.py"))
PAGES = {tool: ROOT / "man/man8" / (tool + ".8") for tool in TOOLS}
SHOWN = {tool: ROOT / "tools" / (tool + "_example.txt") for tool in TOOLS}
each_tool = pytest.mark.parametrize("tool", TOOLS)


def output(*command):
    """Return what a command prints on stdout and stderr."""
    done = run_command(*map(str, command), env=dict(
        os.environ, COLUMNS="80", LC_ALL="C.UTF-8"))
    return done.stdout + done.stderr


@pytest.fixture
def usage(tool, tmp_path):
    """Return what -h prints when the tool has its installed name."""
    shutil.copy(str(ROOT / "tools" / (tool + ".py")), str(tmp_path / tool))
    return output(PYTHON, tmp_path / tool, "-h")


@pytest.mark.parametrize("path", EXAMPLES + SCRIPTS, ids=os.path.basename)
def test_script(path):
    text = path.read_text()
    assert os.access(str(path), os.X_OK)
    assert text.startswith("#!/usr/bin/python3\n")
    ast.parse(text, feature_version=(3, 6))
    # Other headers differ from kernel to kernel, and take long to compile.
    headers = re.findall(r"(?m)^\s*#\s*include\s+(.*)$", text)
    assert all(header.startswith("<uapi/") for header in headers)
    assert "(%s)" % path.relative_to(ROOT) in README
    if path in EXAMPLES:    # a header names it, and says how to run it
        header = re.match(r"(#.*\n)+", text)[0]
        assert "\n#\n# %s  " % path.name in header
        assert "\n# USAGE: %s " % path.name in header
        assert len(text.splitlines()) < 150


@each_tool
def test_documents(tool, usage):
    """Also that no line is over 80 columns."""
    page, example = PAGES[tool], SHOWN[tool].read_text()
    for document in page, SHOWN[tool]:
        assert str(document.relative_to(ROOT)) in README
    assert output("groff", "-man", "-ww", "-z", "-Tutf8", page) == ""
    assert output("mandoc", "-T", "lint", "-W", "warning", page) == ""
    assert set(re.findall(r"(?m)^\.SH (.*)$", page.read_text())) >= {
        "NAME", "SYNOPSIS", "DESCRIPTION", "REQUIREMENTS", "OPTIONS",
        "EXAMPLES", "FIELDS", "OVERHEAD", "SOURCE", "OS", "STABILITY",
        "AUTHOR", "SEE ALSO"}
    formatted = output("mandoc", "-T", "utf8", "-O", "width=78", page)
    formatted = re.sub(".\b", "", formatted)       # overstruck, for bold
    for line in "\n".join([example, usage, formatted]).splitlines():
        assert len(line) <= 80


@each_tool
def test_usage(tool, usage):
    """The man page has its options, and the example file ends with it. In each
    Python: 3.10 changed a title, 3.13 "-p PID, --pid PID" and line breaks."""
    section = re.search(r"(?ms)^\.SH OPTIONS\n(.*?)^\.SH ",
                        PAGES[tool].read_text())[1].replace("\\-", "-")
    in_page, in_usage = [       # all names of an option, or an argument
        {frozenset(re.findall(r"(?<![\w-])--?[\w-]+", line)) or line
         for line in re.findall(pattern, text)} for pattern, text in (
            (r"(?m)^\.TP\n(.*)$", section),
            (r"(?m)^  (-.*?|[a-z]+)(?:  |$)", usage))]
    assert len(in_page) > 2
    assert in_page == in_usage
    _, example = SHOWN[tool].read_text().split("# ./%s -h\n" % tool)
    shown, printed = [
        re.sub(r"(-\w) [A-Z]+, (--)", r"\1, \2", text).replace(
            "optional arguments:", "options:").split()
        for text in (example, usage)]
    assert shown == printed


def test_pycodestyle():
    """As bcc's scripts/py-style-check.sh runs it; on tests as well."""
    scripts = [path for path in ROOT.glob("tests/*/*") if (
        path.is_file() and b"python3\n" in path.read_bytes()[:20])]
    assert output("pycodestyle", "--ignore=E123,E125,E126,E127,E128,E302",
                  ROOT, *scripts) == ""


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *PAGES.values(), *SHOWN.values()],
    ids=os.path.basename)
def test_spelling(path, tmp_path):
    """Of all but code, output, options and words in capitals."""
    text = re.sub(r"(?m)`[^`]*`|https?://\S+|^    .*", " ",
                  path.read_text())
    if path.suffix == ".txt":
        text = re.sub(r"(?ms)^# \./.*?(\n\n|\Z)", "\n", text)
    text = re.sub(r"\b[A-Z][A-Z_\d]+s?\b|(\\?-)+[a-z]\w*", " ", text)
    words = (ROOT / "tests/words.txt").read_text().split()
    dictionary = tmp_path / "words"
    dictionary.write_text("\n".join(
        ["personal_ws-1.1 en %d" % len(words), *words, ""]))
    checked = subprocess.run(
        ["aspell", "list", "--lang=en_US", "--encoding=utf-8",
         "--personal=%s" % dictionary,
         "--mode=" + ("nroff" if path.suffix == ".8" else "none")],
        input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        universal_newlines=True)
    assert sorted(set(checked.stdout.split())) == []
