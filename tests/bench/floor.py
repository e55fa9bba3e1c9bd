#!/usr/bin/python3
"""BPF programs below which no tool can get.

USAGE: floor.py nothing             a program that is not attached anywhere:
                                    what BCC itself takes in memory and time
       floor.py pair SYSCALL        a pair of programs that do nothing, on a
                                    system call's tracepoints
       floor.py clock SYSCALL       the same, but each reads the clock: without
                                    that there is no latency
       floor.py unsent TOOL         TOOL's own programs, which build an event
                                    but do not submit it

Says "Attached." and stays until SIGINT. The programs of a tool are what its
option --ebpf prints, with 0 in place of the call that submits.
"""

import os
import re
import signal
import subprocess
import sys

from bcc import BPF

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
PAIR = """
TRACEPOINT_PROBE(syscalls, sys_enter_%(name)s)
{
    %(act)s
    return 0;
}

TRACEPOINT_PROBE(syscalls, sys_exit_%(name)s)
{
    %(act)s
    return 0;
}
"""
SUBMIT = r"events\.ringbuf_output\([^;]*?BPF_RB_NO_WAKEUP\)"


def unsent(tool):
    """The C text; what of it does not submit is left as it is."""
    text = subprocess.check_output(
        [sys.executable, os.path.join(TOP, "tools", tool + ".py"), "--ebpf",
         "--probe", "tracepoint"], universal_newlines=True)
    text, count = re.subn(SUBMIT, "0", text)
    if count != 1:
        sys.exit("floor.py: %s submits in %d places" % (tool, count))
    return text


def main():
    if sys.argv[1:] == ["nothing"]:
        text = "int nothing(void *ctx) { return 0; }"
    elif len(sys.argv) == 3 and sys.argv[1] in ("pair", "clock"):
        text = PAIR % {"name": sys.argv[2], "act": "bpf_ktime_get_ns();" if
                       sys.argv[1] == "clock" else ""}
    elif len(sys.argv) == 3 and sys.argv[1] == "unsent":
        text = unsent(sys.argv[2])
    else:
        sys.exit(__doc__)
    bpf = BPF(text=text)    # which attaches what is named as a tracepoint
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    print("Attached.", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
