"""What the scripts about mirrors share: a check that names what does not hold, and orders to a millpond."""

import json
import subprocess


class Failure(Exception):
    """What was not as it should be."""


def check(holds, what):
    if not holds:
        raise Failure(what)


def order(binary, data, *words):
    """A command of millpond's own, asked of the server of that data directory; its last line, as JSON."""
    done = subprocess.run([binary, *words, "--server", data, "--json"], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line]
    check(lines, f"{' '.join(words)}: {done.stderr}")
    return json.loads(lines[-1])
