"""What a machine may lack, and how a tool says so, for the tests of tools and
examples that are not on common.py yet."""

import os
import shutil
import subprocess
import tempfile

from toolrun import PYTHON, readable_copy, run, tool_path

COUNT = 23

# A kernel that has no ring buffer does not list the helper among its symbols.
WITHOUT_RING_BUFFER = [
    "unshare", "--mount", "sh", "-c",
    "symbols=$(mktemp) && grep -v bpf_ringbuf_output /proc/kallsyms "
    "> $symbols && mount --bind $symbols /proc/kallsyms && rm $symbols && "
    'exec "$0" "$@"']


# What is tried before kprobes is not to be seen.
WITHOUT_TRACEPOINTS = [
    "unshare", "--mount", "sh", "-c",
    "for hidden in /sys/kernel/tracing/events/syscalls "
    "/sys/kernel/debug/tracing/events/syscalls /sys/kernel/btf; do "
    "[ ! -d $hidden ] || mount -t tmpfs none $hidden || exit; done; "
    'exec "$0" "$@"']


class Subject:
    """A tool; a test case's base."""

    name = None


class Surroundings(Subject):
    """What a machine may lack: one clear line, no traceback."""

    always = []             # arguments without which it does not start

    def check_refusal(self, done, status, *words):
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertNotIn("Traceback", done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def check_one_line(self, done, *words):
        self.check_refusal(done, 1, *words)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def run_in(self, script, *args, env=None):
        """Run the tool from a shell script with a mount namespace of its own,
        where it is "$@"."""
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", PYTHON,
             tool_path(self.name)] + self.always + list(args),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
            universal_newlines=True, env=env)

    def test_not_root(self):
        done = subprocess.run(
            [PYTHON, readable_copy(self, tool_path(self.name))] + self.always,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, preexec_fn=lambda: os.setuid(65534))
        self.check_one_line(done, "root")

    def test_no_bcc(self):
        done = subprocess.run(      # -S: without the distribution's modules
            [PYTHON, "-S", tool_path(self.name)] + self.always,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)
        self.check_one_line(done, "python3-bpfcc (Debian, Ubuntu)",
                            "python3-bcc (Fedora)", "python-bcc (Arch)")

    def test_no_headers(self):
        env = dict(os.environ)
        env.pop("BCC_KERNEL_SOURCE", None)
        if os.path.exists("/sys/kernel/kheaders.tar.xz"):
            self.skipTest("this kernel has its headers in itself")
        done = self.run_in(
            "[ ! -d /lib/modules ] || mount -t tmpfs none /lib/modules && "
            'exec "$@"', env=env)
        self.check_one_line(
            done, "linux-headers-%s (Debian, Ubuntu)" % os.uname().release,
            "kernel-devel (Fedora)", "linux-headers (Arch)",
            "BCC_KERNEL_SOURCE")


class Alone(Surroundings):
    """A tool that is copied to some machine, under either of the names that
    it goes by, or meets an odd one there."""

    soon = []       # arguments with which it ends by itself in a moment

    def alone(self, name, *command, env=()):
        """Run a command in a folder that has only the tool, under a name, with
        nothing in the environment but env, and in a network of its own. Checks
        that it leaves nothing there."""
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            shutil.copy(tool_path(self.name), os.path.join(folder, name))
            done = subprocess.run(
                ["unshare", "--net", "env", "-i", *env, *command],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, universal_newlines=True)
            self.assertEqual(os.listdir(folder), [name])
            return done

    def names(self):
        """As it is here, and as Debian installs it."""
        for name in self.name + ".py", self.name + "-bpfcc":
            with self.subTest(name=name):
                yield name

    def test_works_alone(self):
        headers = ["%s=%s" % item for item in os.environ.items()
                   if item[0] == "BCC_KERNEL_SOURCE"]
        for name in self.names():
            for python in [], [PYTHON, "-I"]:
                done = self.alone(name, *python, "./" + name, *self.always,
                                  *self.soon, env=headers)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertNotIn("Traceback", done.stderr)
                self.assertRegex(done.stdout, r"(?m)^(TIME|PID) +\w")

    def test_goes_by_its_name(self):
        for name in self.names():
            done = self.alone(name, "./" + name, "-h")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertTrue(done.stdout.startswith("usage: %s [-h]" % name))
            done = self.alone(name, "./" + name, "--nonesuch", *self.always)
            self.check_refusal(done, 2, "usage: %s [-h]" % name,
                               "\n%s: error: " % name)
            command = ["./" + name] + self.always
            done = self.alone(name, "setpriv", "--reuid=65534", *command)
            self.check_one_line(done, "%s: needs root, try: sudo %s\n" % (
                name, " ".join(command)))
            done = self.alone(name, PYTHON, "-S", *command)
            self.check_one_line(done, name + ": needs BCC's Python module")

    def test_nowhere_to_write(self):
        """No folder for temporary files, as on a full or broken disk."""
        done = self.run_in(
            "for folder in /tmp /var/tmp /usr/tmp; do [ ! -d $folder ] || "
            "{ mount --bind $folder $folder && "
            "mount -o remount,ro,bind $folder; } || exit; done; "
            'cd /proc && exec "$@"', *self.soon)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("Traceback", done.stderr)


class Refusals(Alone):
    """Those of tools, which also read arguments."""

    bad_arguments = []      # a list of options each

    def test_bad_arguments(self):
        self.assertGreater(len(self.bad_arguments), 10)
        for args in self.bad_arguments:
            with self.subTest(args=args):
                done = run(self.name, *args)
                self.check_refusal(done, 2, "usage: ", "error: ")
                self.assertEqual(
                    done.stderr.splitlines()[-1].count("error: "), 1)
