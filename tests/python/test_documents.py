#!/usr/bin/env python3
"""What holds for every tool and example: style, documents, README.

USAGE: ./test_documents.py [TestClass[.test]]       see ../setup --tests
"""

import ast
import glob
import os
import re
import shutil
import subprocess
import tempfile
import unittest

from toolrun import PYTHON, TOP

TOOLS = sorted(os.path.basename(path)[:-3]
               for path in glob.glob(os.path.join(TOP, "tools", "*.py")))
EXAMPLES = sorted(os.path.relpath(path, TOP) for path in glob.glob(
    os.path.join(TOP, "examples", "**", "*.py"), recursive=True))
WORDS = os.path.join(TOP, "tests", "words.txt")


def path_of(*parts):
    return os.path.join(TOP, *parts)


def text_of(*parts):
    with open(path_of(*parts), encoding="utf-8") as f:
        return f.read()


def page(tool):
    return path_of("man", "man8", tool + ".8")


def output(*command):
    """What a command prints on both descriptors, as text."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, universal_newlines=True,
        env=dict(os.environ, COLUMNS="80", LC_ALL="C.UTF-8")).stdout


def usage(tool):
    """What -h prints when the tool goes by its installed name."""
    with tempfile.TemporaryDirectory() as folder:
        installed = os.path.join(folder, tool)
        shutil.copy(path_of("tools", tool + ".py"), installed)
        return output(PYTHON, installed, "-h")


def any_python(text):
    """Usage as every version of argparse prints it: 3.10 changed a title,
    3.13 "-p PID, --pid PID" to "-p, --pid PID" and with it line breaks."""
    text = text.replace("optional arguments:", "options:")
    text = re.sub(r"(-\w) [A-Z]+, (--)", r"\1, \2", text)
    return re.sub(r"\s+", " ", text).strip()


def names_in(lines):
    """What each line tells of: a set of an option's names, or an argument."""
    return {frozenset(re.findall(r"(?<![\w-])--?[\w-]+", line)) or line
            for line in lines}


def options_of_usage(text):
    """The options and arguments that begin a line of -h."""
    return names_in(re.findall(r"^  (-.*?|[a-z]+)(?:  |$)", text, re.M))


def options_of_page(text):
    """The options and arguments that head the OPTIONS section's entries."""
    section = re.search(r"^\.SH OPTIONS\n(.*?)^\.SH ", text, re.M | re.S)[1]
    entries = re.findall(r"^\.TP\n(.*)$", section, re.M)
    return names_in(entry.replace("\\-", "-") for entry in entries)


class Script:
    """What bcc's reviewers and packagers want of every script."""

    path = None     # from the top

    def test_can_be_run(self):
        self.assertTrue(os.access(path_of(self.path), os.X_OK))
        self.assertTrue(text_of(self.path).startswith("#!/usr/bin/python3\n"))

    def test_python_3_6_grammar(self):
        ast.parse(text_of(self.path), feature_version=(3, 6))

    def test_needs_no_headers_but_those_of_the_interface(self):
        """Others differ from kernel to kernel, and take long to compile."""
        included = re.findall(r"^\s*#\s*include\s+(.*)$", text_of(self.path),
                              re.M)
        self.assertEqual([header for header in included
                          if not header.startswith("<uapi/")], [])

    def test_is_in_readme(self):
        self.assertIn("(%s)" % self.path, text_of("README.md"))


class Example(Script):
    """A teaching example; made into a test case for each."""

    def test_is_short(self):
        self.assertLess(len(text_of(self.path).splitlines()), 150)

    def test_header_comment(self):
        """It names the script, and tells how to run it."""
        name = os.path.basename(self.path)
        header = re.match(r"(#.*\n)+", text_of(self.path))[0]
        self.assertIn("\n#\n# %s  " % name, header)
        self.assertIn("\n# USAGE: %s " % name, header)


class Documents(Script):
    """What a tool must bring; made into a test case for each."""

    tool = None

    def test_has_its_files(self):
        readme = text_of("README.md")
        self.assertIn("man/man8/%s.8" % self.tool, readme)
        self.assertIn("tools/%s_example.txt" % self.tool, readme)
        self.assertTrue(os.path.exists(page(self.tool)))
        self.assertTrue(os.path.exists(
            path_of("tests", "python", "test_%s.py" % self.tool)))

    def test_groff_and_mandoc_find_nothing(self):
        self.assertEqual(output("groff", "-man", "-ww", "-z", "-Tutf8",
                                page(self.tool)), "")
        self.assertEqual(
            output("mandoc", "-T", "lint", "-W", "warning", page(self.tool)),
            "")

    def test_page_has_its_sections(self):
        sections = re.findall(r"^\.SH (.*)$", text_of(page(self.tool)), re.M)
        for section in (
                "NAME", "SYNOPSIS", "DESCRIPTION", "REQUIREMENTS",
                "OPTIONS", "EXAMPLES", "FIELDS", "OVERHEAD", "SOURCE",
                "OS", "STABILITY", "AUTHOR", "SEE ALSO"):
            self.assertIn(section, sections)

    def test_page_and_usage_have_the_same_options(self):
        found = options_of_usage(usage(self.tool))
        self.assertGreater(len(found), 2)
        self.assertEqual(options_of_page(text_of(page(self.tool))), found)

    def test_example_ends_with_the_usage(self):
        example = text_of("tools", self.tool + "_example.txt")
        shown = example.split("# ./%s -h\n" % self.tool)
        self.assertEqual(len(shown), 2)
        self.assertEqual(any_python(shown[1]), any_python(usage(self.tool)))

    def test_no_line_is_over_80_columns(self):
        for name, text in (
                ("example", text_of("tools", self.tool + "_example.txt")),
                ("usage", usage(self.tool)),
                ("page", output("mandoc", "-T", "utf8", "-O", "width=78",
                                page(self.tool)))):
            text = re.sub(".\b", "", text)     # overstruck, for bold
            self.assertEqual([line for line in text.splitlines()
                              if len(line) > 80], [], name)


for _tool in TOOLS:
    _name = "Test" + _tool.capitalize()
    globals()[_name] = type(_name, (Documents, unittest.TestCase),
                            {"tool": _tool, "path": "tools/%s.py" % _tool})

for _path in EXAMPLES:
    _name = "Test" + os.path.basename(_path)[:-3].title().replace("_", "")
    globals()[_name] = type(_name, (Example, unittest.TestCase),
                            {"path": _path})


class WholeTree(unittest.TestCase):

    def test_pycodestyle(self):
        """As bcc's scripts/py-style-check.sh runs it; on tests as well."""
        self.assertEqual(output(
            "pycodestyle", "--ignore=E123,E125,E126,E127,E128,E302",
            *[path_of(name) for name in (
                "tools", "tests", "examples", "tests/bench/run",
                "tests/kernels/run", "tests/upstream/make-series")]), "")

    def test_spelling(self):
        """Of all but code, output, options and words in capitals."""
        names = ["README.md"]
        for tool in TOOLS:
            names += ["man/man8/%s.8" % tool, "tools/%s_example.txt" % tool]
        for name in names:
            with self.subTest(file=name):
                text = re.sub(r"`[^`]*`|https?://\S+", " ", text_of(name))
                if name.endswith("_example.txt"):
                    text = re.sub(r"^# \./.*?(\n\n|\Z)", "\n", text,
                                  flags=re.M | re.S)
                text = re.sub(r"\b[A-Z][A-Z_\d]+s?\b|(\\?-)+[a-z]\w*", " ",
                              text)
                checked = subprocess.run(
                    ["aspell", "list", "--lang=en_US", "--encoding=utf-8",
                     "--mode=" + ("nroff" if name[-2:] == ".8" else "none"),
                     "--personal=" + WORDS], input=text,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    universal_newlines=True)
                self.assertEqual(checked.stderr, "")
                self.assertEqual(sorted(set(checked.stdout.split())), [])


if __name__ == "__main__":
    unittest.main()
