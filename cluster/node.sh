# shellcheck shell=bash
# What every node sets before it starts Ray; cluster.yaml, on_premise.yaml and slurm.sh read it with `.`.
# No secrets here: the token of Ray is in ~/.ray/auth_token, passwords of MLflow's stores are in ~/mlflow.env.
export PATH="$HOME/BoltzRay/.venv/bin:$PATH"
export BOLTZRAY_HOME="${BOLTZRAY_HOME:-/shared/boltzray}" # a folder that every node sees
export MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-http://127.0.0.1:5000}"
unset SSH_CLIENT SSH2_CLIENT # with them, Debian's bash reads ~/.bashrc in Ray's workers, which may put another python first
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_TRAIN_V2_ENABLED=1 RAY_DATA_DISABLE_PROGRESS_BARS=1 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -H -n)"
# Gloo would take the address that the machine's own name has, which often is 127.0.1.1.
if [ -z "${GLOO_SOCKET_IFNAME:-}" ] && command -v ip >/dev/null; then
  GLOO_SOCKET_IFNAME=$(ip -o route get "${RAY_HEAD_IP:-1.1.1.1}" | sed -n 's/.* dev \([^ ]*\).*/\1/p')
  export GLOO_SOCKET_IFNAME
fi
