#!/bin/bash
#SBATCH --job-name=boltzray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
# Ray on the nodes of a Slurm job, and one job of BoltzRay on it, from the root of a checkout that all nodes see:
#   sbatch --nodes=4 --gpus-per-node=8 cluster/slurm.sh jobs/train.py run=prose_up_to_8aa data.path=/shared/data
# Submitted again it goes on. BOLTZRAY_HOME (default: the checkout) is where results go; all nodes must see that, too.
set -euo pipefail
: "${SLURM_JOB_ID:?submit this with sbatch}" "${1:?name a job: sbatch cluster/slurm.sh jobs/train.py KEY=VALUE …}"
cd "$SLURM_SUBMIT_DIR"
export PATH="$PWD/.venv/bin:$PATH" BOLTZRAY_HOME="${BOLTZRAY_HOME:-$PWD}"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
export RAY_TRAIN_V2_ENABLED=1 RAY_DATA_DISABLE_PROGRESS_BARS=1 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -H -n)"

# A token of this job's own, in a file that only its user reads, and that goes with the job.
RAY_AUTH_TOKEN_PATH=$(umask 077 && mktemp "$HOME/.boltzray-token-$SLURM_JOB_ID-XXXXXX")
export RAY_AUTH_TOKEN_PATH
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
  ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_NNODES" \
  -- env RAY_ADDRESS="$head:6379" python "$@"
