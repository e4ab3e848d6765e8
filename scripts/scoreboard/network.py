"""Three network namespaces joined by veth pairs: that of the servers, that of the load and that of the upstream.

    load    10.7.1.2 ------------ 10.7.1.1 servers
    servers 10.7.2.1 ------------ 10.7.2.2 upstream
    load    10.7.3.1 ------------ 10.7.3.2 upstream

The script runs in the namespace of the servers. The load asks the upstream directly for the figures of "direct" and
for the upstream's counts, hence the third pair. The upstream has one address, 10.7.0.1 on its `lo`, which is reached
over both of its pairs, so its URL is the same for servers and load.

The pairs carry segments of 64 KiB, as loopback does, unless another MTU is named. With the 1500 bytes of an Ethernet
there are ten to forty times as many for the same bytes, which load and kernel pay for on the cores that the servers
would use: on two cores 6,000 players at 5 Mbit/s stall with most servers then.

A namespace lives as long as a process in it: a `sleep` for those of the load and the upstream. The congestion control
of each is Reno, since one that paces (BBR) would measure its timers. Where no veth pairs can be made, everything runs
in one namespace over loopback; where no namespace can be made, in the machine's own.
"""

import os
import shlex
import signal
import subprocess
import sys

from processes import launch, run

# Tells the script that it was started again within the servers' namespace.
ENTERED = "BENCH_NETWORK"
PREPARED = "ip link set lo up && echo reno > /proc/sys/net/ipv4/tcp_congestion_control"

SERVERS_TO_LOAD, LOAD_TO_SERVERS = "10.7.1.1", "10.7.1.2"
SERVERS_TO_UPSTREAM, UPSTREAM_TO_SERVERS = "10.7.2.1", "10.7.2.2"
LOAD_TO_UPSTREAM, UPSTREAM_TO_LOAD = "10.7.3.1", "10.7.3.2"
UPSTREAM = "10.7.0.1"

# The most that a veth device takes.
MOST_MTU = 65535


def enter(words):
    """Starts the script again, with these further words, in a namespace of its own; returns where that cannot be."""
    if os.environ.get(ENTERED):
        return
    as_root = [["unshare", "--net"]] if os.geteuid() == 0 else []
    for command in [*as_root, ["unshare", "--map-root-user", "--net"]]:
        if subprocess.run([*command, "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            os.environ[ENTERED] = "own"
            os.execvp(command[0], [*command, "sh", "-c", f'{PREPARED}; exec "$@"', "sh", sys.executable, *sys.argv, *words])


class Loopback:
    """Servers, load and upstream beside each other at 127.0.0.1."""

    server_address = upstream_address = "127.0.0.1"
    in_load = in_upstream = ()


class Joined:
    """The three namespaces; the end of a `with` removes those of the load and the upstream, and the pairs with them.

    `in_load` and `in_upstream` are what stands before the command of a program that is to run there.
    """

    server_address, upstream_address = SERVERS_TO_LOAD, UPSTREAM

    def __init__(self, mtu):
        self.mtu = mtu
        self.keepers = []

    def __enter__(self):
        try:
            load, upstream = self.namespace(), self.namespace()
            self.in_load, self.in_upstream = within(load), within(upstream)
            self.join((), (SERVERS_TO_LOAD, "load"), load, self.in_load, (LOAD_TO_SERVERS, "servers"))
            self.join((), (SERVERS_TO_UPSTREAM, "upstream"), upstream, self.in_upstream, (UPSTREAM_TO_SERVERS, "servers"))
            self.join(self.in_load, (LOAD_TO_UPSTREAM, "upstream"), upstream, self.in_upstream, (UPSTREAM_TO_LOAD, "load"))
            command(*self.in_upstream, *f"ip address add {UPSTREAM}/32 dev lo".split())
            command(*f"ip route add {UPSTREAM} via {UPSTREAM_TO_SERVERS}".split())
            command(*self.in_load, *f"ip route add {UPSTREAM} via {UPSTREAM_TO_LOAD}".split())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for keeper in self.keepers:
            keeper.kill()
            keeper.wait()

    def namespace(self):
        """Makes a namespace; returns the process that keeps it."""
        keeper = launch(["unshare", "--net", "sh", "-c", f"{PREPARED} && echo ready && exec sleep infinity"],
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.keepers.append(keeper)
        if keeper.stdout.readline() != "ready\n":
            raise NotJoined(keeper.stderr.read().strip())
        return keeper

    def join(self, in_near, near, far_keeper, in_far, far):
        """A veth pair between two namespaces; each end is named after the namespace that it leads to."""
        (near_address, near_name), (far_address, far_name) = near, far
        command(*in_near, *f"ip link add {near_name} type veth peer name {far_name} netns {far_keeper.pid}".split())
        for place, address, name in ((in_near, near_address, near_name), (in_far, far_address, far_name)):
            command(*place, *f"ip address add {address}/30 dev {name}".split())
            command(*place, *f"ip link set {name} mtu {self.mtu} up".split())


class NotJoined(Exception):
    """A namespace or a pair that could not be made, with the words of the program that failed."""


def within(keeper):
    return ("nsenter", f"--net=/proc/{keeper.pid}/ns/net")


def command(*words):
    done = run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise NotJoined(f"{shlex.join(words)}: {done.stderr.strip()}")


def join(stack, mtu):
    """The best network that can be made here, kept until the end of the stack."""
    if not os.environ.get(ENTERED):
        print("no network namespace can be made here: the figures are those of loopback and this machine's network settings", flush=True)
        return Loopback()
    try:
        return stack.enter_context(Joined(mtu))
    except NotJoined as why:
        print(f"no veth pairs can be made here: the figures are those of loopback ({why})", flush=True)
        return Loopback()


def end_on_sigterm():
    """Has SIGTERM unwind the script like Ctrl-C does, so that each `with` ends what it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
