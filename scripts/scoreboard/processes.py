"""Programs that the benchmark starts, none of which outlives it.

Each `with` ends what it started. Where the script is killed and has no time for that, the kernel sends each of its
children a signal (`PR_SET_PDEATHSIG`): SIGTERM, on which nginx and varnishd end their own children too.
"""

import ctypes
import signal
import subprocess

LIBC = ctypes.CDLL(None)
# From linux/prctl.h.
PR_SET_PDEATHSIG = 1


def dies_with_the_script():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def launch(command, **options):
    """Starts a program. The signal is kept across `exec`, so `nsenter` may stand before the program."""
    return subprocess.Popen(command, preexec_fn=dies_with_the_script, **options)


def run(command, **options):
    """Runs a program to its end."""
    return subprocess.run(command, preexec_fn=dies_with_the_script, **options)
