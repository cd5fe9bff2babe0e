"""Burns CPU time until killed, or for at most a minute. `steady`: one process. `forks`: one after another of 5 ms each,
so short that a reader of /proc meets hardly any of them alive; only their cgroup's counter knows what they used."""

import os
import sys
import time

END = time.monotonic() + 60


def spin(cpu_s):
    end = time.process_time() + cpu_s
    while time.process_time() < end:
        pass


def main():
    while time.monotonic() < END:
        if sys.argv[1] == "steady":
            spin(0.1)
            continue
        child = os.fork()
        if child == 0:
            spin(0.005)
            os._exit(0)
        os.waitpid(child, 0)


main()
