#!/usr/bin/env bash
# Ray 2.60: a second local cluster on a machine starts seconds later than the first, and without its agent's HTTP server.
#
# Expected: ray.init() finds free ports for all that it starts, so that two jobs on one machine, each with a local cluster,
#   start alike; it does so for the dashboard, the scheduler and the store.
# Seen: each node's agent asks for one fixed port. Where another cluster has that, it tries six times, 0.1 to 1.6 s apart,
#   then goes on without its HTTP server, and the node, for which ray.init() waits, waits for the agent all the time.
#   Output of this script (seconds; these differ by machine):
#     alone: 3.8 s to start; beside another cluster: 6.8 s, after 6 attempts to bind one port
# Versions: ray 2.60.0 with its extra "default".
# Source: ray/dashboard/http_server_agent.py (attempts and delays), ray/_private/parameter.py (the port); ray.init() has no
#   argument for the port, `ray start` has --dashboard-agent-listen-port. That the agent stays alive without its server is
#   ray-project/ray issue 51925.
# Why it matters: on a shared workstation, or with a long training in the background, every other job that starts Ray
#   seems slow, and a start-up that is measured beside another cluster is longer than it is. Our jobs start no cluster for small work; docs/training.md names the delay.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check "ray[default]==2.60.0"
cat > "$work/start.py" <<'PY'
import glob
import logging
import sys
import time

import ray

began = time.perf_counter()
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
seconds = time.perf_counter() - began
session = ray._private.worker._global_node.get_session_dir_path()
logs = "".join(open(path).read() for path in glob.glob(f"{session}/logs/dashboard_agent.log"))
print(f"{seconds:.2f} {logs.count('Failed to bind to port') + logs.count('failed to bind after')}", flush=True)
sys.stdin.read()  # the cluster lives as long as its input is open
ray.shutdown()
PY
export RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0
"$work/env/bin/python" - "$work" <<'PY'
import subprocess
import sys

work = sys.argv[1]
command = [f"{work}/env/bin/python", f"{work}/start.py"]


def start():
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seconds, attempts = process.stdout.readline().split()
    return process, float(seconds), int(attempts)


def stop(process):
    process.stdin.close()
    process.wait()


stop(start()[0])  # whose files are then in the system's cache
first, alone, none = start()
second, beside, attempts = start()
stop(second)
stop(first)
print(f"alone: {alone:.1f} s to start; beside another cluster: {beside:.1f} s, after {attempts} attempts to bind one port")
if none:
    print("another cluster runs on this machine already: stop it, and run this again")
sys.exit(not (none == 0 and attempts == 6 and beside > alone + 2))
PY
